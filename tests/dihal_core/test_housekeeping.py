import contextlib
import importlib.util
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from dihal_core.errors import ArtifactError, ResourceError
from dihal_core.housekeeping import hold_home, leftovers, remove
from dihal_core.inspection import inspect_store
from dihal_core.store import StageStore, store_lock

_spec = importlib.util.spec_from_file_location("tiny_home", Path(__file__).with_name("tiny_home.py"))
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)


@pytest.fixture
def home(tmp_path):
    tiny.fill(tmp_path)
    return tmp_path


def names(found) -> set[str]:
    return {f"{item.path.parent.name}/{item.path.name}" for item in found}


def test_what_no_study_refers_to_is_left_over(home):
    assert names(leftovers(home, 0)) == tiny.UNUSED


def test_nothing_is_left_over_while_a_result_is_unreadable(home):
    (home / "studies" / "first" / "study.json").write_text('{"records": ')
    with pytest.raises(ArtifactError, match=r"study\.json is unreadable"):
        leftovers(home, 0)


def test_young_stores_are_left_out(home):
    assert leftovers(home, 1) == []
    old = time.time() - 3 * 86400
    for path in (home / "corpus" / tiny.key("c2"), *(home / "corpus" / tiny.key("c2")).rglob("*")):
        os.utime(path, (old, old))
    (found,) = leftovers(home, 1)
    assert found.path == home / "corpus" / tiny.key("c2")
    assert found.age_days == pytest.approx(3, abs=0.01)
    assert found.bytes == sum(path.stat().st_size for path in found.path.rglob("*") if path.is_file())


def test_removal_frees_the_space_and_harms_nothing_that_is_needed(home):
    found = leftovers(home, 0)
    assert names(remove(home, found)) == names(found)
    assert leftovers(home, 0) == []
    assert inspect_store(home, "score", tiny.key("s1")).state == "intact"
    assert [path.name for path in (home / "corpus").iterdir() if path.is_dir()] == [tiny.key("c1")]


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
    with store_lock(home, "corpus", tiny.key("c2")):
        assert names(remove(home, found)) == tiny.UNUSED - tiny.stores("corpus/c2")
    assert inspect_store(home, "corpus", tiny.key("c2")).state == "intact"


def test_a_store_that_a_study_came_to_need_after_the_listing_stays(home):
    found = leftovers(home, older_than_days=0.0)
    tiny.publish(home, "second", [tiny.found_in(home, "activations", "a2")])
    gone = remove(home, found)
    assert names(gone) == tiny.stores("geometry/L01-nobody")
    assert inspect_store(home, "activations", tiny.key("a2")).state == "intact"
    assert inspect_store(home, "corpus", tiny.key("c2")).state == "intact"  # it was made from that
