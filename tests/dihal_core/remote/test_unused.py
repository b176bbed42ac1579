"""Housekeeping of a remote home: what studies need stays, what nothing needs goes, manifest first."""

import json
import os
import platform
import time

import pytest

from dihal_core.errors import ArtifactError, ResourceError
from dihal_core.housekeeping import hold_home
from dihal_core.inspection import inspect_store
from dihal_core.journal import process_place
from dihal_core.remote import unused as housekeeping
from dihal_core.remote.home import remote_home
from dihal_core.remote.link import share
from dihal_core.remote.partial import Snapshots
from dihal_core.remote.studies import push
from dihal_core.remote.unused import referred, remove, unused
from dihal_core.store import StageStore, resolve_home
from flows.cli import main

LATER = time.time() + 30 * 24 * 3600
NEEDED, MADE_FROM, ALONE = ("a" * 24, "b" * 24, "c" * 24)


def store(home, stage, key, inputs=None):
    made = StageStore(home, stage, key)
    made.write_bytes("data.bin", f"{stage} {key}".encode() * 50)
    return share(home, made.finalize({}, {"request": {"inputs": inputs or {}}}, None))


@pytest.fixture
def place(request, machine):
    """An address on a storage without network, or on an S3-compatible server where a test asks for it."""
    if getattr(request, "param", "memory") == "s3":
        return request.getfixturevalue("bucket")
    return f"memory://unused-{os.getpid()}-{time.time_ns()}"


on_s3_too = pytest.mark.parametrize("place", ["memory", "s3"], indirect=True)


@pytest.fixture
def three(place, machine):
    """A study that needs one store, which was made from another; a third one is alone."""
    home = resolve_home(place)
    before = store(home, "corpus", MADE_FROM)
    store(home, "activations", NEEDED, {"corpus": {"": before.digest}})
    store(home, "corpus", ALONE)
    result = home / "studies" / "mine" / "study.json"
    result.parent.mkdir(parents=True)
    result.write_text(json.dumps({"records": [{"key": NEEDED}]}))
    push(place, home, "mine")
    machine("second")
    return resolve_home(place)


def names(found):
    return [item.name for item in found]


@on_s3_too
def test_a_store_nobody_refers_to_is_found_and_removed_and_the_others_stay(three, place, machine):
    assert referred(place) == {f"activations/{NEEDED}", f"corpus/{MADE_FROM}"}
    assert unused(place) == []  # too young
    found = unused(place, now=LATER)
    assert names(found) == [f"corpus/{ALONE}"]
    assert found[0].kind == "store"
    assert found[0].bytes > 0
    assert inspect_store(three, "corpus", ALONE).state == "intact"  # listing removes nothing
    assert remove(place, found) == found
    assert unused(place, now=LATER) == []
    assert not remote_home(place).objects.listing(f"corpus/{ALONE}")
    machine("third")
    assert inspect_store(resolve_home(place), "activations", NEEDED).state == "intact"
    assert inspect_store(resolve_home(place), "corpus", ALONE).state == "absent"


def test_old_snapshots_and_attempts_go_too_and_a_store_written_to_meanwhile_stays(three, place):
    StageStore(three, "geometry", "unfinished").write_bytes("a.bin", b"x")
    Snapshots(remote_home(place), three, "geometry", "unfinished", 1.0).save()
    objects = remote_home(place).objects
    objects.write("corpus/other/v-0123/data.bin", b"x" * 10)
    found = unused(place, now=LATER)
    assert {item.name: item.kind for item in found} == {
        f"corpus/{ALONE}": "store",
        "geometry/unfinished.partial": "unfinished",
        "corpus/other/v-0123": "uncommitted",
    }
    objects.write("corpus/other/v-0123/more.bin", b"x")
    assert set(names(remove(place, found))) == {f"corpus/{ALONE}", "geometry/unfinished.partial"}
    assert objects.read("corpus/other/v-0123/data.bin") is not None


@on_s3_too
def test_a_store_made_again_under_the_same_names_after_it_was_listed_stays(three, place):
    found = unused(place, now=LATER)
    objects = remote_home(place).objects
    name = next(name for name in found[0].objects if name.endswith("data.bin"))
    objects.write(name, objects.read(name)[::-1])  # its size is that of the old one
    assert remove(place, found) == []
    assert objects.read(f"corpus/{ALONE}/manifest.json") is not None


def test_a_store_that_a_study_has_come_to_need_after_it_was_listed_stays(three, place):
    found = unused(place, now=LATER)
    result = json.dumps({"records": [{"key": ALONE}]}).encode()
    remote_home(place).objects.write("studies/theirs/study.json", result)
    assert remove(place, found) == []
    assert inspect_store(three, "corpus", ALONE).state == "intact"


def test_a_long_removal_ends_when_a_study_begins_elsewhere(three, place, monkeypatch, caplog):
    monkeypatch.setattr(housekeeping, "LOOK_AGAIN_SECONDS", 0.0)
    store(three, "corpus", "d" * 24)
    found = unused(place, now=LATER)
    assert len(found) == 2

    def begins_after_the_first():
        yield found[0]
        journal = {"state": "running", "flow": "full-study", "process": {"host": "another-machine"}}
        remote_home(place).objects.write("studies/theirs/runs/full-study.json", json.dumps(journal).encode())
        yield found[1]

    assert remove(place, begins_after_the_first()) == found[:1]
    assert "full-study of study theirs on another-machine" in caplog.text
    assert remote_home(place).objects.listing(found[1].name)


def test_an_unreadable_study_stops_the_search_before_anything_is_called_unused(three, place):
    remote_home(place).objects.write("studies/mine/history/study-1.json", b"{")
    with pytest.raises(ArtifactError, match=r"studies/mine/history/study-1\.json is unreadable .* what it needs is"):
        unused(place, now=LATER)


@pytest.mark.parametrize(
    ("process", "refused"),
    [
        ({"host": "another-machine", "pid": 1, "created": 0.0}, True),
        ({"host": platform.node(), "pid": os.getpid(), "created": 0.0}, False),  # another process had that number
        ({"host": platform.node(), "pid": 1, "created": 0.0, "place": process_place()}, False),
        (
            {"host": platform.node(), "pid": 1, "created": 0.0, "place": "another boot/4026531836"},
            True,
        ),  # same host name
    ],
)
def test_nothing_goes_while_a_study_may_be_running_on_another_machine(three, place, process, refused):
    journal = {"state": "running", "flow": "full-study", "process": process}
    remote_home(place).objects.write("studies/theirs/runs/full-study.json", json.dumps(journal).encode())
    found = unused(place, now=LATER)
    if not refused:
        assert names(remove(place, found)) == [f"corpus/{ALONE}"]
        return
    with pytest.raises(ResourceError, match="full-study of study theirs on .*nothing was removed"):
        remove(place, found)
    assert inspect_store(three, "corpus", ALONE).state == "intact"
    assert housekeeping.running_elsewhere(place, within_days=0.0) is None


def test_nothing_goes_while_a_study_is_running_on_this_machine(three, place):
    with hold_home(three), pytest.raises(ResourceError, match="a study is running in"):
        remove(place, unused(place, now=LATER))


def test_the_command_lists_first_and_removes_when_told(three, place, capsys):
    assert main(["gc", "--home", place, "--older-than", "0"]) == 0
    said = capsys.readouterr().out
    assert f"corpus/{ALONE}" in said
    assert "nothing was removed" in said
    assert main(["gc", "--home", place, "--older-than", "0", "--delete", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["stores"]
    assert row["path"] == f"{place}/corpus/{ALONE}"
    assert row["removed"]
    assert main(["gc", "--home", place]) == 0
    assert f"{place}: every store older than 7 days is needed by a study" in capsys.readouterr().out
