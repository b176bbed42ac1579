import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dihal_core.errors import ArtifactError, ConfigError
from dihal_core.inspection import inspect_store
from dihal_core.store import StageStore, discard_store, resolve_home, store_lock


def make(home: Path, text: bytes = b"hello", key: str = "k1"):
    store = StageStore(home, "corpus", key)
    store.write_bytes("a/data.bin", text)
    store.commit("u0", {"seconds": 1.5})
    return store.finalize({"rows": 3}, {"request": {}}, None)


def test_the_digest_depends_on_content_and_not_on_times_or_commit_records(tmp_path):
    first = make(tmp_path / "one")
    second = make(tmp_path / "two")
    other = make(tmp_path / "three", text=b"hellp")
    assert first.digest == second.digest
    assert first.digest != other.digest


def test_a_discarded_store_is_gone_and_can_be_made_again(tmp_path):
    first = make(tmp_path)
    discard_store(tmp_path, "corpus", "k1")
    assert inspect_store(tmp_path, "corpus", "k1").state == "absent"
    assert make(tmp_path).digest == first.digest


def test_an_interrupted_store_keeps_committed_units_and_drops_temporary_files(tmp_path):
    store = StageStore(tmp_path, "corpus", "k1")
    store.write_bytes("done.bin", b"1")
    store.commit("u0", {"rows": 1})
    (store.path / "torn.bin.123.tmp").write_bytes(b"half")
    assert inspect_store(tmp_path, "corpus", "k1").state == "partial"
    again = StageStore(tmp_path, "corpus", "k1")
    assert again.committed() == {"u0": {"rows": 1}}
    assert not list(again.path.rglob("*.tmp"))


def test_a_torn_commit_record_is_no_record(tmp_path):
    store = StageStore(tmp_path, "corpus", "k1")
    store.commit("u0", {"rows": 1})
    (store.path / "commits" / "u1.json").write_text('{"rows": ')
    assert StageStore(tmp_path, "corpus", "k1").committed() == {"u0": {"rows": 1}}


def test_nan_is_refused_in_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        StageStore(tmp_path, "corpus", "k").write_json("x.json", {"loss": float("nan")})


def test_a_url_with_credentials_as_home_is_refused_in_a_sentence():
    with pytest.raises(ConfigError, match="before '@'"):
        resolve_home("s3://key:secret@bucket/runs")  # pragma: allowlist secret


@pytest.mark.parametrize(
    ("given", "variable", "named"), [(None, "", "DIHAL_HOME"), (None, " ", "DIHAL_HOME"), ("", "/x", "--home")]
)
def test_a_home_that_is_given_but_empty_is_refused_and_one_that_is_not_given_is_here(
    given, variable, named, monkeypatch
):
    monkeypatch.setenv("DIHAL_HOME", variable)
    with pytest.raises(ConfigError, match=f"^{named} is given but empty.*prefect deploy --all"):
        resolve_home(given)
    monkeypatch.delenv("DIHAL_HOME")
    assert resolve_home() == Path("runs").resolve()


def test_the_lock_dies_with_a_killed_holder(tmp_path):
    script = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        from dihal_core.store import store_lock
        with store_lock(Path({str(tmp_path)!r}), "corpus", "k"):
            print("held", flush=True)
            time.sleep(600)
        """
    )
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "held"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with store_lock(tmp_path, "corpus", "k"):
        assert (tmp_path / "corpus" / ".k.lock").exists()


def test_a_process_that_joins_leaves_the_temporary_files_of_others_alone(tmp_path):
    store = StageStore(tmp_path, "corpus", "k1")
    (store.path / "chunk.tmp").write_bytes(b"half")
    assert (StageStore(tmp_path, "corpus", "k1", join=True).path / "chunk.tmp").exists()
    assert not (StageStore(tmp_path, "corpus", "k1").path / "chunk.tmp").exists()


def test_a_finished_store_has_no_second_writer(tmp_path):
    record = make(tmp_path)
    with pytest.raises(ArtifactError, match="finished and immutable"):
        StageStore(tmp_path, "corpus", "k1")
    assert inspect_store(tmp_path, "corpus", "k1").record == record


def test_a_withdrawn_unit_is_not_committed_any_more(tmp_path):
    store = StageStore(tmp_path, "corpus", "k1")
    store.commit("u0", {"rows": 1})
    assert store.has("u0")
    assert store.committed_unit("u0") == {"rows": 1}
    store.withdraw("u0")
    store.withdraw("u0")
    assert not store.has("u0")
    assert store.committed_unit("u0") == {}
    assert store.committed() == {}
