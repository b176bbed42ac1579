import contextlib
import hashlib
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
from dihal_core.inspection import inspect_store
from dihal_core.store import StageStore, store_lock


def key(name: str) -> str:
    """A key as stages have it: 24 hexadecimal digits, behind the unit if there is one."""
    unit, _, rest = name.rpartition("-")
    return f"{unit}-{key(rest)}" if unit else hashlib.sha256(name.encode()).hexdigest()[:24]


def make(home: Path, stage: str, name: str, inputs: dict | None = None, files: dict | None = None):
    """A finished store whose manifest names the stores it was made from, as `runner.ensure` writes it."""
    store = StageStore(home, stage, key(name))
    for file, data in (files or {"data.bin": f"{stage}/{name}".encode()}).items():
        store.write_bytes(file, data)
    document = {stage: {"": record.digest} for stage, record in (inputs or {}).items()}
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
    rows = make(tmp_path, "geometry", "L01-g1", {"activations": dump})
    publish(tmp_path, "first", [make(tmp_path, "score", "s1", {"geometry": rows})])
    make(tmp_path, "geometry", "L01-nobody", {"activations": dump})
    return tmp_path


def found_in(home: Path, stage: str, name: str):
    return inspect_store(home, stage, key(name)).record


def stores(*names: str) -> set[str]:
    """`stage/key` of `stage/name`."""
    return {f"{stage}/{key(name)}" for stage, name in (text.split("/") for text in names)}


NEEDED = stores("score/s1", "geometry/L01-g1", "activations/a1", "corpus/c1")
UNUSED = stores("corpus/c2", "activations/a2", "geometry/L01-nobody")


def names(found) -> set[str]:
    return {f"{item.path.parent.name}/{item.path.name}" for item in found}


def test_what_a_study_refers_to_is_kept_with_everything_it_was_made_from(home):
    assert referred(home) == NEEDED
    assert names(leftovers(home, 0)) == UNUSED


@pytest.mark.parametrize("where", ["history/study-20260101T000000Z.json", "runs/journal.json", "sensitivity.json"])
def test_a_kept_history_a_journal_or_any_other_file_of_a_study_counts(home, where):
    publish(home, "first", [found_in(home, "activations", "a2")], where)
    assert referred(home) == NEEDED | stores("activations/a2", "corpus/c2")


def test_a_seal_remembers_an_old_score_and_keeps_no_store(home):
    publish(home, "first", [found_in(home, "activations", "a2")], "sealed.json")
    assert referred(home) == NEEDED


def test_a_published_result_keeps_the_store_it_came_from_and_what_that_read(home):
    dump = found_in(home, "activations", "a2")
    page = make(home, "locate", "l1", {"activations": dump}, {"locate.json": b'{"selected": 3}'})
    other = make(home, "locate", "l2", {"activations": dump}, {"locate.json": b'{"selected": 4}'})
    (home / "studies" / "first" / "locate.json").write_text('{"selected": 3, "difference": "2 -> 3"}')
    assert referred(home) == NEEDED | stores("locate/l1", "activations/a2", "corpus/c2")
    assert page.digest != other.digest


def test_a_hybrid_is_kept_with_its_training(home):
    training, stranger = (
        make(home, "replace", "r1", {"corpus": found_in(home, "corpus", "c1")}),
        make(home, "replace", "r2"),
    )
    make(home, "hybrid", "h1", {"replace": training})
    make(home, "hybrid", "h2", {"replace": stranger})
    publish(home, "second", [training])
    assert referred(home) == NEEDED | stores("replace/r1", "hybrid/h1")


def test_an_unreadable_result_stops_the_search_instead_of_freeing_its_stores(home):
    (home / "studies" / "first" / "study.json").write_text('{"records": ')
    with pytest.raises(ArtifactError, match=r"study\.json is unreadable"):
        leftovers(home, 0)


def test_young_stores_are_left_out(home):
    assert leftovers(home, 1) == []
    old = time.time() - 3 * 86400
    for path in (home / "corpus" / key("c2"), *(home / "corpus" / key("c2")).rglob("*")):
        os.utime(path, (old, old))
    (found,) = leftovers(home, 1)
    assert found.path == home / "corpus" / key("c2")
    assert found.age_days == pytest.approx(3, abs=0.01)
    assert found.bytes == sum(path.stat().st_size for path in found.path.rglob("*") if path.is_file())


def test_removal_frees_the_space_and_harms_nothing_that_is_needed(home):
    found = leftovers(home, 0)
    assert names(remove(home, found)) == names(found)
    assert leftovers(home, 0) == []
    assert inspect_store(home, "score", key("s1")).state == "intact"
    assert [path.name for path in (home / "corpus").iterdir() if path.is_dir()] == [key("c1")]


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
    with store_lock(home, "corpus", key("c2")):
        assert names(remove(home, found)) == UNUSED - stores("corpus/c2")
    assert inspect_store(home, "corpus", key("c2")).state == "intact"


def test_a_store_that_a_study_came_to_need_after_the_listing_stays(home):
    found = leftovers(home, older_than_days=0.0)
    publish(home, "second", [found_in(home, "activations", "a2")])
    gone = remove(home, found)
    assert names(gone) == stores("geometry/L01-nobody")
    assert inspect_store(home, "activations", key("a2")).state == "intact"
    assert inspect_store(home, "corpus", key("c2")).state == "intact"  # it was made from that
