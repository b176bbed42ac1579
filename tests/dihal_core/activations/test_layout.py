"""What a stranger finds: dimension names, attributes, and three lines that work."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest

from dihal_core.activations import layout
from dihal_core.activations.names import GROUP
from dihal_core.activations.reader import load_pool

_spec = importlib.util.spec_from_file_location("dump_script", Path(__file__).with_name("dump_script.py"))
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return script.dump(tmp_path_factory.mktemp("layout"))


@pytest.mark.parametrize("tool", ["zarr", "xarray"])
def test_the_three_documented_lines_read_the_states(record, tool, monkeypatch):
    monkeypatch.chdir(record.path)
    lines = json.loads(Path(GROUP, "zarr.json").read_bytes())["attributes"][f"read_with_{tool}"]
    assert len(lines.strip().splitlines()) == 3
    for line in lines.strip().splitlines():
        assert f"    {line}\n" in layout.__doc__
    names: dict = {}
    exec(lines, names)
    expected = load_pool(record, 2).rows_ND
    assert np.array_equal(np.asarray(names["states"]), expected)
    if tool == "xarray":
        assert names["states"].dims == ("row", "hidden")
        assert names["states"].attrs["layer"] == 2


def test_xarray_opens_every_group_with_named_dimensions(record):
    import xarray

    windows = xarray.open_zarr(record.path / GROUP, consolidated=False)
    assert windows["tokens"].dims == ("sequence", "position")
    assert windows["lengths"].shape == (90,)
    whole = xarray.open_zarr(record.path / GROUP, group="full", consolidated=False)
    assert dict(whole.sizes) == {"sequence": 22, "position": script.POSITIONS, "hidden": script.WIDTH}
    assert whole["state_03"].attrs["long_name"] == "raw output of block 3"
    rows = xarray.open_zarr(record.path / GROUP, group="geom", consolidated=False)["rows"]
    assert rows.attrs["fields"] == ["sequence", "position", "document"]


def test_attributes_say_what_is_stored_and_how_it_was_made(record):
    attributes = json.loads((record.path / GROUP / "zarr.json").read_bytes())["attributes"]
    assert "raw output of block LL" in attributes["index_convention"]
    assert "<< 16" in attributes["logical_dtype"]
    assert attributes["batch_shape"] == [4, script.POSITIONS]
    assert attributes["backbone"] == {"name": "tiny"}
    assert attributes["table_layers"] == [0, 1, 2, 3, 4]
    assert attributes["whole_layers"] == [1, 2, 3]


def test_chunks_of_a_finished_dump_are_read_only(record):
    chunks = [path for path in (record.path / GROUP).glob("*/state_*/c/**/*") if path.is_file()]
    assert len(chunks) > 10
    assert all(not path.stat().st_mode & 0o222 for path in chunks)
    if os.geteuid():
        with pytest.raises(PermissionError):
            chunks[0].write_bytes(b"")
