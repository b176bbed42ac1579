import json
import os
from pathlib import Path

import pytest

from dihal_core.errors import ArtifactError
from dihal_core.inspection import inspect_store
from dihal_core.store import STORE_FORMAT, StageStore


def make(home: Path, text: bytes = b"hello", key: str = "k1"):
    store = StageStore(home, "corpus", key)
    store.write_bytes("a/data.bin", text)
    store.commit("u0", {"seconds": 1.5})
    return store.finalize({"rows": 3}, {"request": {}}, None)


def test_a_finished_store_is_intact_and_gives_back_its_record(tmp_path):
    record = make(tmp_path)
    status = inspect_store(tmp_path, "corpus", "k1")
    assert status.state == "intact"
    assert status.record == record
    assert not (tmp_path / "corpus" / "k1.partial").exists()


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "extra", "manifest", "other_key"])
def test_a_harmed_store_is_never_trusted(tmp_path, harm):
    record = make(tmp_path)
    path = record.path / "a/data.bin"
    if harm == "flip":
        times = path.stat()
        path.write_bytes(b"hellO")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif harm == "truncate":
        path.write_bytes(b"hell")
    elif harm == "delete":
        path.unlink()
    elif harm == "extra":
        (record.path / "stranger.bin").write_bytes(b"x")
    elif harm == "manifest":
        (record.path / "manifest.json").write_text("{")
    else:
        manifest = json.loads((record.path / "manifest.json").read_bytes())
        (record.path / "manifest.json").write_text(json.dumps({**manifest, "key": "other"}))
    status = inspect_store(tmp_path, "corpus", "k1")
    assert status.state == "damaged"
    assert status.record is None


def set_format(record, value):
    path = record.path / "manifest.json"
    manifest = json.loads(path.read_bytes())
    path.write_text(json.dumps({**manifest, "format": value} if value is not None else without_format(manifest)))


def without_format(manifest):
    return {name: value for name, value in manifest.items() if name != "format"}


def test_a_store_of_a_newer_format_is_refused_and_left_alone(tmp_path):
    record = make(tmp_path)
    set_format(record, STORE_FORMAT + 1)
    with pytest.raises(ArtifactError, match=f"format {STORE_FORMAT + 1}.*reads format {STORE_FORMAT}: install"):
        inspect_store(tmp_path, "corpus", "k1")
    assert (record.path / "a/data.bin").read_bytes() == b"hello"


@pytest.mark.parametrize("value", [None, "one", [1]])
def test_a_store_that_names_no_format_is_damaged(tmp_path, value):
    record = make(tmp_path)
    set_format(record, value)
    assert inspect_store(tmp_path, "corpus", "k1").state == "damaged"
