"""The dump: what it holds is what the model says, an interruption changes no byte, errors surface."""

import copy
import errno
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from dihal_core.activations.names import GROUP
from dihal_core.activations.reader import load_pool, load_whole
from dihal_core.activations.run import dump_states, remaining_units
from dihal_core.activations.tensors import to_bits
from dihal_core.activations.verify import verify
from dihal_core.backbones.backbone import Backbone
from dihal_core.backbones.registry import family_of
from dihal_core.errors import ArtifactError, NumericsError
from dihal_core.progress import silent
from dihal_core.store import StageStore

SCRIPT = Path(__file__).with_name("dump_script.py")
_spec = importlib.util.spec_from_file_location("dump_script", SCRIPT)
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return script.dump(tmp_path_factory.mktemp("undisturbed"))


def test_every_stored_state_is_the_state_of_the_model_bit_for_bit(undisturbed):
    plan, backbone = script.tiny_plan(), script.tiny_backbone()
    for layer in plan.table_layers:
        pool = load_pool(undisturbed, layer)
        expected = np.concatenate(
            [
                to_bits(backbone.prefix(torch.from_numpy(plan.batch(start)), layer))[: plan.windows - start]
                for start in range(0, plan.windows, plan.batch_sequences)
            ]
        )
        picked_ND = expected[pool.sequence_N, pool.position_N]
        assert np.array_equal(pool.rows_ND.view(np.uint32) >> 16, picked_ND)
        assert not (pool.rows_ND.view(np.uint32) & 0xFFFF).any()
        if layer in plan.whole_layers:
            assert np.array_equal(load_whole(undisturbed, layer), expected[: plan.whole_sequences])
    assert np.array_equal(pool.document_N, plan.document_N[pool.sequence_N])


@pytest.mark.parametrize("policy", ["last", "mean"])
def test_a_pool_of_last_or_mean_states_has_one_row_per_window(policy, tmp_path):
    plan, backbone = script.tiny_plan(policy=policy, per_window=1), script.tiny_backbone()
    pool = load_pool(script.dump(tmp_path, plan), 2)
    long_enough = np.flatnonzero(plan.lengths_N > 4)
    assert pool.sequence_N.tolist() == long_enough.tolist()
    assert pool.position_N.tolist() == (plan.lengths_N[long_enough] - 1).tolist()
    hidden_NTD = np.concatenate(
        [backbone.prefix(torch.from_numpy(plan.batch(start)), 2).float().numpy() for start in range(0, plan.windows, 4)]
    )
    for row, sequence in zip(pool.rows_ND, long_enough, strict=True):
        states = hidden_NTD[sequence, 4 : plan.lengths_N[sequence]]
        expected = states.mean(axis=0) if policy == "mean" else states[-1]
        assert row == pytest.approx(expected, rel=2**-8)


def test_a_stranger_with_zarr_alone_reads_the_same(undisturbed):
    root = zarr.open_group(undisturbed.path / GROUP, mode="r")
    assert root["geom/state_02"].metadata.dimension_names == ("row", "hidden")
    assert root["full/state_02"].attrs["logical_dtype"] == "bfloat16"
    assert "raw output of block" in root.attrs["index_convention"]
    assert np.array_equal(root["full/state_03"][:], load_whole(undisturbed, 3))
    pool = load_pool(undisturbed, 4)
    as_torch = torch.from_numpy(root["geom/state_04"][:].view(np.int16)).view(torch.bfloat16).float().numpy()
    assert np.array_equal(as_torch, pool.rows_ND)
    assert np.array_equal(root["geom/rows"][:, 1], pool.position_N)
    assert np.array_equal(root["tokens"][:], script.tiny_plan().tokens_NT)


def test_chunk_files_are_byte_identical_to_those_zarr_writes(undisturbed, tmp_path):
    ours = zarr.open_group(undisturbed.path / GROUP, mode="r")
    theirs = zarr.open_group(tmp_path / "copy", mode="w", zarr_format=3)
    compared = 0
    for name in ("geom/state_01", "full/state_03"):
        source = ours[name]
        copy = theirs.create_array(
            name, shape=source.shape, chunks=source.chunks, dtype="uint16", fill_value=0, compressors=source.compressors
        )
        copy[:] = source[:]
        for path in (tmp_path / "copy" / name / "c").rglob("*"):
            if path.is_file():
                twin = undisturbed.path / GROUP / path.relative_to(tmp_path / "copy")
                assert twin.read_bytes() == path.read_bytes()
                compared += 1
    assert compared > 10


def test_a_dump_stopped_every_few_units_goes_on_where_it_was(tmp_path, undisturbed):
    plan, backbone = script.tiny_plan(), script.tiny_backbone()
    attempts = 0
    while attempts < 20:
        store = StageStore(tmp_path, "activations", "k")
        before = len(remaining_units(plan, store.committed()))
        if not before:
            break

        def stop_soon(done: float, _total: float, _unit: str, first: int = plan.windows - before * 8) -> None:
            if done > first + 32:
                raise KeyboardInterrupt

        attempts += 1
        try:
            dump_states(backbone, plan, store, {"name": "tiny"}, stop_soon)
        except KeyboardInterrupt:
            assert not list(store.path.glob("manifest.json"))
    assert attempts > 2
    assert script.dump(tmp_path).digest == undisturbed.digest


def test_units_without_short_windows_are_never_done_twice(tmp_path):
    plan, store = script.tiny_plan(short=False), StageStore(tmp_path, "activations", "k")
    assert [unit.index for unit in remaining_units(plan, store.committed())] == list(range(12))
    for index in (0, 1, 2, 3, 4, 7):
        store.commit(f"unit-{index:06d}", {})
    assert [unit.index for unit in remaining_units(plan, store.committed())] == [5, 6, 8, 9, 10, 11]
    ragged = script.tiny_plan(short=True)
    assert len(ragged.rows_M3) < 3 * 90
    again = remaining_units(ragged, store.committed())[0]
    assert again.index < 5
    assert again.rows.start <= ragged.units()[5].rows.start // ragged.chunk_rows * ragged.chunk_rows


def test_the_batch_shape_is_fixed_and_the_last_one_is_filled_with_separators():
    plan = script.tiny_plan()
    last_BT = plan.batch(88)
    assert last_BT.shape == (4, script.POSITIONS)
    assert (last_BT[2:] == script.SEPARATOR).all()
    assert np.array_equal(last_BT[:2], plan.tokens_NT[88:])


def test_a_full_disk_is_an_error_and_not_a_hang(tmp_path, monkeypatch):
    store = StageStore(tmp_path, "activations", "k")

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dihal_core.activations.chunks.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        dump_states(script.tiny_backbone(), script.tiny_plan(), store, {"name": "tiny"}, silent)
    assert not any(name.startswith("unit") for name in store.committed())


def test_a_damaged_chunk_is_never_read(tmp_path):
    record = script.dump(tmp_path)
    chunk = record.path / GROUP / "geom" / "state_02" / "c" / "3" / "0"
    data = bytearray(chunk.read_bytes())
    data[17] ^= 1
    chunk.chmod(0o644)
    chunk.write_bytes(data)
    with pytest.raises(ArtifactError, match="CRC32C differs"):
        load_pool(record, 2)
    assert len(load_pool(record, 1).rows_ND)
    chunk.unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_pool(record, 2)
    with pytest.raises(ArtifactError, match=r"holds no full/state_04; .* state_01, state_02, state_03"):
        load_whole(record, 4)


def test_verification_finds_states_that_the_model_did_not_make(tmp_path):
    plan, backbone, store = script.tiny_plan(), script.tiny_backbone(), StageStore(tmp_path, "activations", "k")
    dump_states(backbone, plan, store, {"name": "tiny"}, silent)
    assert verify(backbone, plan, store.path / GROUP, seed=0)["verified_rows"] > 0
    root = zarr.open_group(store.path / GROUP, mode="r+")
    root["geom/state_03"][:] = root["geom/state_03"][:] ^ 1
    with pytest.raises(NumericsError, match="stored geom/state_03 differs from the recomputed state at sequence"):
        verify(backbone, plan, store.path / GROUP, seed=0)


def test_a_state_that_is_not_finite_is_named_with_layer_and_sequence(tmp_path):
    backbone, plan = script.tiny_backbone(), script.tiny_plan()
    model = copy.deepcopy(backbone.model)
    model.base_model.layers[1].mlp = torch.nn.Sequential(model.base_model.layers[1].mlp, _Poison())
    poisoned = Backbone(model, family_of("llama"), "poisoned")
    with pytest.raises(NumericsError, match=r"layer 2, sequence 1, position 2 is not finite in poisoned"):
        dump_states(poisoned, plan, StageStore(tmp_path, "activations", "k"), {"name": "tiny"}, silent)


class _Poison(torch.nn.Module):
    def forward(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        poisoned_BTD = hidden_BTD.clone()
        poisoned_BTD[1, 2] = torch.inf
        return poisoned_BTD
