import time
from pathlib import Path

import fsspec
import pytest

from dihal_core.errors import ArtifactError, NumericsError
from dihal_core.inspection import inspect_store
from dihal_core.remote.home import remote_home
from dihal_core.remote.link import resumable
from dihal_core.remote.partial import Snapshots, forget, restore
from dihal_core.store import StageStore, resolve_home

KEY = "k" * 24


def half_made(address: str, units: int) -> tuple[Path, StageStore]:
    home = resolve_home(address)
    store = StageStore(home, "geometry", KEY)
    for unit in range(units):
        store.write_bytes(f"rows/{unit}.bin", bytes([unit]) * 50)
        store.commit(f"unit-{unit}", {"rows": unit})
    return home, store


def fail(home: Path, address: str, error: Exception) -> None:
    with resumable(home, "geometry", KEY, 3600):
        half_made(address, 3)
        raise error


def test_another_machine_goes_on_with_the_units_of_one_that_failed(address, machine):
    home = resolve_home(address)
    with pytest.raises(NumericsError):
        fail(home, address, NumericsError("layer 4 has no variance"))
    machine("second")
    with resumable(resolve_home(address), "geometry", KEY, 3600):
        store = StageStore(resolve_home(address), "geometry", KEY)
        assert store.committed() == {f"unit-{unit}": {"rows": unit} for unit in range(3)}
        assert (store.path / "rows" / "2.bin").read_bytes() == bytes([2]) * 50


def test_units_are_uploaded_while_the_stage_runs(address, machine):
    home = resolve_home(address)
    remote = remote_home(address)
    with resumable(home, "geometry", KEY, 0.05):
        half_made(address, 2)
        for _ in range(200):
            if (remote.objects.read(f"geometry/{KEY}.partial/index.json") or b"").count(b"commits/") == 2:
                break
            time.sleep(0.05)
        machine("second")
        assert restore(remote, resolve_home(address), "geometry", KEY)
    assert inspect_store(resolve_home(address), "geometry", KEY).state == "partial"


def test_a_snapshot_that_is_behind_does_not_replace_what_is_here(address, machine):
    home, _ = half_made(address, 1)
    assert Snapshots(remote_home(address), home, "geometry", KEY, 1.0).save() == 2
    half_made(address, 2)
    assert not restore(remote_home(address), home, "geometry", KEY)
    assert StageStore(home, "geometry", KEY).has("unit-1")


def test_a_snapshot_that_lost_an_object_is_not_used(address, machine, objects_under):
    home, _ = half_made(address, 2)
    Snapshots(remote_home(address), home, "geometry", KEY, 1.0).save()
    files = objects_under(f"{address}/geometry/{KEY}.partial")
    victim = next(path for path in files if not path.endswith("index.json"))
    files[victim].pipe_file(victim, b"damaged")
    machine("second")
    assert not restore(remote_home(address), resolve_home(address), "geometry", KEY)
    assert not (resolve_home(address) / "geometry" / f"{KEY}.partial").exists()


def test_a_second_snapshot_uploads_only_what_changed_and_removes_what_it_replaced(address, machine, objects_under):
    home, store = half_made(address, 2)
    snapshots = Snapshots(remote_home(address), home, "geometry", KEY, 1.0)
    snapshots.save()
    before = set(objects_under(f"{address}/geometry/{KEY}.partial"))
    store.write_bytes("rows/1.bin", b"new" * 20)
    snapshots.save()
    after = set(objects_under(f"{address}/geometry/{KEY}.partial"))
    assert len(after - before) == len(before - after) == 1


def test_the_snapshots_of_a_discarded_store_are_discarded_too(address, machine, objects_under):
    home, _ = half_made(address, 1)
    Snapshots(remote_home(address), home, "geometry", KEY, 1.0).save()
    forget(address, "geometry", KEY)
    assert objects_under(address) == {}
    with pytest.raises(ArtifactError):
        fail(home, address, ArtifactError("its input is damaged"))
    assert objects_under(address) == {}


def test_a_local_home_is_left_alone(tmp_path):
    with resumable(tmp_path, "geometry", KEY, 3600):
        assert not (tmp_path / "geometry").exists()
    assert fsspec.filesystem("file").find(str(tmp_path)) == []
