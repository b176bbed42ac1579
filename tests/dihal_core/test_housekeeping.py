import contextlib
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from dihal_core.errors import ArtifactError, ResourceError
from dihal_core.housekeeping import hold_home, leftovers, referred, remove
from dihal_core.store import StageStore, inspect_store, store_lock


def make(home: Path, stage: str, key: str, inputs: dict | None = None, files: dict | None = None):
    """A finished store whose manifest names the stores it was made from, as `runner.ensure` writes it."""
    store = StageStore(home, stage, key)
    for name, data in (files or {"data.bin": f"{stage}/{key}".encode()}).items():
        store.write_bytes(name, data)
    document = {name: {"": record.digest} for name, record in (inputs or {}).items()}
    return store.finalize({}, {"request": {"inputs": document}}, None)


def publish(home: Path, name: str, records, where: str = "study.json") -> None:
    path = home / "studies" / name / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"records": [{"stage": r.stage, "key": r.key} for r in records]}))


@pytest.fixture
def home(tmp_path):
    """Two corpora with what follows from each; a study refers to the score of the first."""
    corpus, other = make(tmp_path, "corpus", "c1"), make(tmp_path, "corpus", "c2")
    dump = make(tmp_path, "activations", "a1", {"corpus": corpus})
    make(tmp_path, "activations", "a2", {"corpus": other})
    publish(tmp_path, "first", [make(tmp_path, "score", "s1", {"geometry": dump})])
    make(tmp_path, "geometry", "g-of-nobody", {"activations": dump})
    return tmp_path


def names(found) -> set[str]:
    return {f"{item.path.parent.name}/{item.path.name}" for item in found}


def test_what_a_study_refers_to_is_kept_with_everything_it_was_made_from(home):
    assert referred(home) == {"score/s1"}  # its input names a stage `geometry` that has no such digest
    dump = inspect_store(home, "activations", "a1").record
    rows = make(home, "geometry", "L01-g1", {"activations": dump})
    publish(home, "second", [make(home, "score", "s2", {"geometry": rows})])
    assert referred(home) == {"score/s1", "score/s2", "geometry/L01-g1", "activations/a1", "corpus/c1"}
    assert names(leftovers(home, 0)) == {"corpus/c2", "activations/a2", "geometry/g-of-nobody"}


def test_a_kept_history_of_a_study_counts(home):
    publish(home, "first", [inspect_store(home, "activations", "a2").record], "history/2026-01-01/study.json")
    assert {"activations/a2", "corpus/c2"} <= referred(home)


def test_published_results_keep_the_store_they_came_from_and_what_it_read(home):
    dump = inspect_store(home, "activations", "a2").record
    page = make(home, "locate", "l1", {"activations": dump}, {"locate.json": b'{"records": []}'})
    path = home / "studies" / "first" / "locate.json"
    path.write_bytes((page.path / "locate.json").read_bytes())
    assert {"locate/l1", "activations/a2", "corpus/c2"} <= referred(home)


def test_a_hybrid_is_kept_with_its_training(home):
    corpus = inspect_store(home, "corpus", "c1").record
    training, stranger = make(home, "replace", "r1", {"corpus": corpus}), make(home, "replace", "r2")
    make(home, "hybrid", "h1", {"replace": training})
    make(home, "hybrid", "h2", {"replace": stranger})
    publish(home, "first", [training])
    assert {"replace/r1", "hybrid/h1"} <= referred(home)
    assert {"replace/r2", "hybrid/h2"} <= names(leftovers(home, 0))


def test_an_unreadable_result_stops_the_search_instead_of_freeing_its_stores(home):
    (home / "studies" / "first" / "study.json").write_text('{"records": ')
    with pytest.raises(ArtifactError, match=r"study\.json is unreadable"):
        leftovers(home, 0)


def test_young_stores_are_left_out(home):
    assert leftovers(home, 1) == []
    old = time.time() - 3 * 86400
    for path in (home / "corpus" / "c2", *(home / "corpus" / "c2").rglob("*")):
        os.utime(path, (old, old))
    (found,) = leftovers(home, 1)
    assert found.path == home / "corpus" / "c2"
    assert found.age_days == pytest.approx(3, abs=0.01)
    assert found.bytes == sum(path.stat().st_size for path in found.path.rglob("*") if path.is_file())


def test_removal_frees_the_space_and_harms_nothing_that_is_needed(home):
    found = leftovers(home, 0)
    assert names(remove(home, found)) == names(found)
    assert leftovers(home, 0) == []
    assert inspect_store(home, "score", "s1").state == "intact"
    assert sorted(path.name for path in (home / "corpus").iterdir() if path.is_dir()) == []


def test_unfinished_damaged_and_half_removed_folders_are_found(home):
    for name in ("k.partial", "k.damaged-17", "k.removed-18"):
        (home / "sweep" / name).mkdir(parents=True)
    kinds = {item.path.name: item.kind for item in leftovers(home, 0)}
    assert kinds["k.partial"] == "unfinished"
    assert kinds["k.damaged-17"] == "damaged"
    assert kinds["k.removed-18"] == "removed"
    remove(home, leftovers(home, 0))
    assert not [path for path in (home / "sweep").iterdir() if path.is_dir()]


@contextlib.contextmanager
def another_process(code: str):
    """Run `code` in a process of its own until it prints a line; kill it at the end."""
    script = f"import time\nfrom pathlib import Path\n{textwrap.dedent(code)}"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_a_store_whose_lock_is_held_is_named_and_never_removed(home):
    StageStore(home, "corpus", "c3")
    holder = f"""
    from dihal_core.store import store_lock
    with store_lock(Path({str(home)!r}), "corpus", "c3"):
        print("held", flush=True)
        time.sleep(600)
    """
    with another_process(holder):
        found = leftovers(home, 0)
        assert [item.path.name for item in found if item.held] == ["c3.partial"]
        assert "corpus/c3.partial" not in names(remove(home, found))
        assert (home / "corpus" / "c3.partial").is_dir()
    assert "corpus/c3.partial" in names(remove(home, leftovers(home, 0)))


def test_nothing_is_removed_while_a_study_runs_and_its_end_by_kill_lets_go(home):
    holder = f"""
    from dihal_core.housekeeping import hold_home
    kept = hold_home(Path({str(home)!r}))
    print("held", flush=True)
    time.sleep(600)
    """
    with another_process(holder):
        with pytest.raises(ResourceError, match="a study is running"):
            remove(home, leftovers(home, 0))
        hold_home(home).close()  # studies do not keep each other out
    assert remove(home, leftovers(home, 0))


def test_looking_writes_nothing(home):
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    leftovers(home, 0)
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_a_store_that_is_being_made_again_meanwhile_stays(home):
    found = leftovers(home, 0)
    with store_lock(home, "corpus", "c2"):
        assert "corpus/c2" not in names(remove(home, found))
    assert inspect_store(home, "corpus", "c2").state == "intact"
