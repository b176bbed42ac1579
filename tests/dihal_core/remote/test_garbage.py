import time

from dihal_core.inspection import inspect_store
from dihal_core.remote.garbage import leftovers, remove
from dihal_core.remote.home import remote_home
from dihal_core.remote.link import share
from dihal_core.remote.partial import Snapshots
from dihal_core.store import StageStore, resolve_home

LATER = time.time() + 10 * 24 * 3600


def test_what_is_finished_or_resumable_is_no_leftover(address, machine, make_store):
    home, made = make_store(address)
    share(home, made)
    StageStore(home, "geometry", "unfinished").write_bytes("a.bin", b"x")
    Snapshots(remote_home(address), home, "geometry", "unfinished", 1.0).save()
    assert leftovers(address, now=LATER) == []


def test_an_attempt_that_was_never_committed_goes_once_it_is_old(address, machine, make_store):
    home, made = make_store(address)
    share(home, made)
    objects = remote_home(address).objects
    objects.write("corpus/other/v-0123/data.bin", b"x" * 10)  # killed before its manifest
    objects.write(f"corpus/{made.key}/v-4567/data.bin", b"x" * 20)  # lost against another maker
    objects.write(f"corpus/{made.key}.partial/index.json", b"{}")  # finished since
    assert leftovers(address) == []  # it may be under way
    found = leftovers(address, now=LATER)
    assert {item.name: item.bytes for item in found} == {
        "corpus/other/v-0123": 10,
        f"corpus/{made.key}/v-4567": 20,
        f"corpus/{made.key}.partial": 2,
    }
    remove(address, found)
    assert leftovers(address, now=LATER) == []
    machine("second")
    assert inspect_store(resolve_home(address), "corpus", made.key).state == "intact"
