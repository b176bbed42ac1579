"""Chunks that do not lie on disk as they were written are found before the store is finished, and made again."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from dihal_core.activations.chunks import chunk_checksum
from dihal_core.activations.destination import Destination
from dihal_core.activations.names import GROUP, chunk_file
from dihal_core.activations.recheck import damaged_units
from dihal_core.activations.run import dump_states
from dihal_core.errors import ArtifactError
from dihal_core.progress import silent
from dihal_core.store import StageStore

_spec = importlib.util.spec_from_file_location("dump_script", Path(__file__).with_name("dump_script.py"))
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


def torn(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[:-70])


def flipped(path: Path, other: Path) -> None:
    data = bytearray(path.read_bytes())
    data[33] ^= 4
    path.write_bytes(data)


def missing(path: Path, other: Path) -> None:
    path.unlink()


def empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def swapped_for_another_good_chunk(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("harm", [torn, flipped, missing, empty, swapped_for_another_good_chunk])
@pytest.mark.parametrize("array", ["geom/state_02", "full/state_01"])
def test_a_harmed_chunk_of_a_committed_unit_is_found_and_made_again(tmp_path, harm, array, short):
    plan, store = script.tiny_plan(short=short), StageStore(tmp_path, "activations", "k")
    dump_states(script.tiny_backbone(), plan, store, {"name": "tiny"}, silent)
    group, dimensions = store.path / GROUP, 2 if array.startswith("geom") else 3
    chunks = [chunk_file(group, array, index, dimensions) for index in (1, 0)]
    before = chunks[0].read_bytes()
    chunks[0].chmod(0o644)
    harm(*chunks)
    found = damaged_units(plan, store.committed(), Destination(group))
    assert len(found) == 1
    again = []
    dump_states(script.tiny_backbone(), plan, store, {"name": "tiny"}, lambda done, _total, _unit: again.append(done))
    assert chunks[0].read_bytes() == before
    assert damaged_units(plan, store.committed(), Destination(group)) == []
    if not short:
        assert len(again) <= 4  # one unit of two batches


def test_an_untouched_dump_has_no_damaged_unit_and_a_record_for_every_chunk(tmp_path):
    plan, store = script.tiny_plan(), StageStore(tmp_path, "activations", "k")
    dump_states(script.tiny_backbone(), plan, store, {"name": "tiny"}, silent)
    assert damaged_units(plan, store.committed(), Destination(store.path / GROUP)) == []
    recorded = sum(
        len(chunks) for payload in store.committed().values() for chunks in payload.get("crc32c", {}).values()
    )
    on_disk = [path for path in (store.path / GROUP).glob("*/state_*/c/**/*") if path.is_file()]
    assert recorded == len(on_disk) > 50


def test_a_disk_that_keeps_changing_what_is_written_is_blamed(tmp_path, monkeypatch):
    plan, store = script.tiny_plan(16, whole=0, short=False), StageStore(tmp_path, "activations", "k")
    real = chunk_checksum

    def another_byte(path: Path, value_bytes: int) -> int | None:
        if path.match("geom/state_02/c/1/0"):
            path.chmod(0o644)
            flipped(path, path)
        return real(path, value_bytes)

    monkeypatch.setattr("dihal_core.activations.destination.chunk_checksum", another_byte)
    with pytest.raises(ArtifactError, match="unit-000001 reads back damaged after 3 repairs"):
        dump_states(script.tiny_backbone(), plan, store, {"name": "tiny"}, silent)


def test_units_of_several_chunks_are_resumed_and_checked_alike(tmp_path, monkeypatch):
    monkeypatch.setattr("dihal_core.activations.plan.CHUNK_BYTES", 4 * script.POSITIONS * script.WIDTH * 2)
    plan, store = script.tiny_plan(short=False), StageStore(tmp_path, "activations", "k")
    assert plan.whole_chunk_rows == 4
    dump_states(script.tiny_backbone(), plan, store, {"name": "tiny"}, silent)
    path = chunk_file(store.path / GROUP, "full/state_01", 3, 3)
    before = path.read_bytes()
    path.unlink()
    assert damaged_units(plan, store.committed(), Destination(store.path / GROUP)) == ["unit-000001"]
    dump_states(script.tiny_backbone(), plan, store, {"name": "tiny"}, silent)
    assert path.read_bytes() == before
    assert len(list((store.path / GROUP / "full" / "state_01" / "c").iterdir())) == 6
