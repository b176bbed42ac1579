"""Gathered rows are the rows, and damage is seen on the first touch of a chunk."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dihal_core.activations.names import GROUP, chunk_file
from dihal_core.activations.reader import load_pool, load_whole, map_array, map_whole
from dihal_core.errors import ArtifactError

_spec = importlib.util.spec_from_file_location("dump_script", Path(__file__).with_name("dump_script.py"))
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return script.dump(tmp_path_factory.mktemp("mapped"))


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.integers(0, 21), max_size=60))
def test_any_rows_in_any_order_with_repeats_are_those_of_the_array_in_memory(record, rows):
    whole_STD = load_whole(record, 2)
    found = map_whole(record, 2).gather(np.array(rows, int))
    assert found.shape == (len(rows), *whole_STD.shape[1:])
    assert np.array_equal(found, whole_STD[np.array(rows, int)])


def test_pool_rows_are_gathered_over_all_chunks(record):
    mapped = map_array(record.path / GROUP, "geom/state_01")
    pool = load_pool(record, 1)
    order = np.random.default_rng(0).permutation(len(mapped))
    bits = mapped.gather(order).astype(np.uint32) << 16
    assert np.array_equal(bits.view(np.float32), pool.rows_ND[order])


def test_a_row_that_is_not_there_is_an_index_error(record):
    for wrong in (-1, 22):
        with pytest.raises(IndexError, match=r"outside 0\.\.21 of full/state_02"):
            map_whole(record, 2).gather(np.array([0, wrong]))


def test_damage_is_seen_when_a_chunk_is_touched_and_not_before(tmp_path):
    made = script.dump(tmp_path)
    path = chunk_file(made.path / GROUP, "full/state_02", 1, 3)
    data = bytearray(path.read_bytes())
    data[100] ^= 8
    path.chmod(0o644)
    path.write_bytes(data)
    mapped = map_whole(made, 2)
    assert len(mapped.gather(np.arange(8)))
    with pytest.raises(ArtifactError, match="CRC32C differs"):
        mapped.gather(np.array([9]))
    assert len(map_whole(made, 2, check=False).gather(np.array([9])))
    path.write_bytes(data[:-9])
    with pytest.raises(ArtifactError, match="bytes, not"):
        map_whole(made, 2, check=False).gather(np.array([9]))
    path.write_bytes(b"")
    with pytest.raises(ArtifactError, match="cannot be mapped"):
        map_whole(made, 2).gather(np.array([9]))
