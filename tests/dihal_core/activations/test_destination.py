"""Where a store is no local folder, or is compressed, the same values go through zarr-python."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import zarr

from dihal_core.activations.destination import Destination
from dihal_core.activations.names import GROUP
from dihal_core.activations.recheck import damaged_units
from dihal_core.activations.run import dump_states
from dihal_core.activations.verify import verify
from dihal_core.errors import ConfigError, NumericsError
from dihal_core.progress import silent
from dihal_core.store import StageStore

_spec = importlib.util.spec_from_file_location("dump_script", Path(__file__).with_name("dump_script.py"))
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


@pytest.fixture(scope="module")
def direct(tmp_path_factory):
    return zarr.open_group(script.dump(tmp_path_factory.mktemp("direct")).path / GROUP, mode="r")


def values(root) -> dict[str, np.ndarray]:
    return {name: array[:] for name, array in root.members(max_depth=None) if isinstance(array, zarr.Array)}


@pytest.mark.parametrize("codec", [None, "zstd"])
def test_a_dump_into_an_object_store_holds_the_same_values(direct, tmp_path, codec):
    url = f"memory://dump-{codec}/states.zarr"
    plan, store, there = script.tiny_plan(), StageStore(tmp_path, "activations", "k"), Destination(url, codec)
    assert not there.direct
    dump_states(script.tiny_backbone(), plan, store, {"name": "tiny"}, silent, there)
    expected, found = values(direct), values(zarr.open_group(url, mode="r"))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert not list(store.path.glob("states.zarr"))
    assert verify(script.tiny_backbone(), plan, url, seed=0)["verified_rows"] > 0


def test_a_harmed_chunk_in_an_object_store_is_found_and_made_again(tmp_path):
    url = "memory://harmed/states.zarr"
    plan, store, there = script.tiny_plan(), StageStore(tmp_path, "activations", "k"), Destination(url)
    dump_states(script.tiny_backbone(), plan, store, {"name": "tiny"}, silent, there)
    root = zarr.open_group(url, mode="r+")
    before = root["full/state_02"][:]
    root["full/state_02"][3] = 0
    with pytest.raises(NumericsError, match="stored full/state_02 differs"):
        verify(script.tiny_backbone(), plan, url, seed=0, batches=23)
    assert damaged_units(plan, store.committed(), there) == ["unit-000000"]
    dump_states(script.tiny_backbone(), plan, store, {"name": "tiny"}, silent, there)
    assert np.array_equal(zarr.open_group(url, mode="r")["full/state_02"][:], before)


def test_a_folder_with_a_codec_goes_through_zarr_and_one_without_does_not(tmp_path):
    assert Destination(tmp_path).direct
    assert not Destination(tmp_path, "zstd").direct
    store = StageStore(tmp_path, "activations", "k")
    with pytest.raises(ConfigError, match=r"unknown codec 'zst' \(did you mean 'zstd'"):
        dump_states(script.tiny_backbone(), script.tiny_plan(), store, {}, silent, Destination(tmp_path / "g", "zst"))
