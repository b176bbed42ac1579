"""The Zarr v3 group of hidden states: array metadata and small arrays, for readers that know nothing of us.

zarr-python writes the metadata and can read everything; chunks of states are written as plain files,
which is the same bytes: little-endian values in C order, then their CRC32C in 4 bytes.

Three lines with zarr and NumPy, or with xarray (the group's attributes hold them too, and tests run them)::

    import numpy as np, zarr
    bits = zarr.open_group("states.zarr", mode="r")["geom/state_02"][:]
    states = (bits.astype(np.uint32) << 16).view(np.float32)

    import numpy as np, xarray as xr
    bits = xr.open_zarr("states.zarr", group="geom", consolidated=False)["state_02"]
    states = bits.copy(data=(bits.values.astype(np.uint32) << 16).view(np.float32))
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec

from dihal_core.activations.codecs import compressors
from dihal_core.activations.names import ROWS, pool_array, whole_array
from dihal_core.activations.plan import DumpPlan

INDEX_CONVENTION = (
    "state_00 is what enters block 1 (embedding output); state_LL is the raw output of block LL, counted from 1; "
    "the last one has not passed the final norm"
)
LOGICAL_DTYPE = (
    "bfloat16 (bit patterns in uint16): the upper 16 bits of an IEEE 754 float32, so value = "
    "(bits.astype(uint32) << 16).view(float32), exactly"
)
READ_WITH_ZARR = """\
import numpy as np, zarr
bits = zarr.open_group("states.zarr", mode="r")["geom/state_02"][:]
states = (bits.astype(np.uint32) << 16).view(np.float32)
"""
READ_WITH_XARRAY = """\
import numpy as np, xarray as xr
bits = xr.open_zarr("states.zarr", group="geom", consolidated=False)["state_02"]
states = bits.copy(data=(bits.values.astype(np.uint32) << 16).view(np.float32))
"""


def create_group(path: Path | str, plan: DumpPlan, backbone: Mapping[str, Any], codec: str | None = None) -> None:
    """Write metadata of all arrays, and the small arrays whole. Repeats itself after an interruption.

    Parameters
    ----------
    path
        Folder or fsspec URL.
    plan
        Shapes and layers.
    backbone
        Facts that a stranger needs to read the states (name, model type, dtype of the forward).
    codec
        Compression, a key of `codecs.CODECS`; None for plain values.
    """
    root = zarr.open_group(path, mode="w", zarr_format=3)
    root.attrs.update(
        {
            "format": "DiHAL hidden states, version 1",
            "title": "Hidden states of a frozen decoder language model, one array per layer",
            "index_convention": INDEX_CONVENTION,
            "logical_dtype": LOGICAL_DTYPE,
            "read_with_zarr": READ_WITH_ZARR,
            "read_with_xarray": READ_WITH_XARRAY,
            "backbone": dict(backbone),
            "batch_shape": [plan.batch_sequences, plan.positions],
            "table_layers": list(plan.table_layers),
            "whole_layers": list(plan.whole_layers) if plan.whole_sequences else [],
            "arrays": {
                "tokens": "token ids of the windows, right-padded with the separator",
                "lengths": "tokens of each window that are text; the rest are pads",
                "documents": "document each window was cut from",
                "geom": "sampled token states of training windows (the pool); which ones: geom/rows",
                "full": "all positions of the first windows; position 0 is the prefix token, pads follow `lengths`",
            },
            "separator_id": plan.separator_id,
        }
    )
    _small(root, "tokens", plan.tokens_NT, ("sequence", "position"), "token id")
    _small(root, "lengths", plan.lengths_N, ("sequence",), "tokens of the window that are text")
    _small(root, "documents", plan.document_N, ("sequence",), "index of the document")
    rows = _small(root, ROWS, plan.rows_M3, ("row", "field"), "where each row of geom/state_LL comes from")
    rows.attrs["fields"] = ["sequence", "position", "document"]
    for layer in plan.table_layers:
        shape = (len(plan.rows_M3), plan.hidden_size)
        _states(root, pool_array(layer), shape, plan.chunk_rows, ("row", "hidden"), layer, codec)
    if plan.whole_sequences:
        for layer in plan.whole_layers:
            shape = (plan.whole_sequences, plan.positions, plan.hidden_size)
            dimensions = ("sequence", "position", "hidden")
            _states(root, whole_array(layer), shape, plan.whole_chunk_rows, dimensions, layer, codec)


def _small(root: zarr.Group, name: str, values: np.ndarray, dimensions: tuple[str, ...], title: str) -> zarr.Array:
    values = np.ascontiguousarray(values, dtype=np.int32)
    array = root.create_array(
        name,
        shape=values.shape,
        chunks=(min(max(len(values), 1), 65536), *values.shape[1:]),
        dtype="int32",
        serializer=BytesCodec(endian="little"),
        compressors=compressors(None),
        fill_value=-1,
        dimension_names=dimensions,
        attributes={"long_name": title},
    )
    array[:] = values
    return array


def _states(
    root: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    chunk_rows: int,
    dimensions: tuple[str, ...],
    layer: int,
    codec: str | None,
) -> None:
    root.create_array(
        name,
        shape=shape,
        chunks=(chunk_rows, *shape[1:]),
        dtype="uint16",
        serializer=BytesCodec(endian="little"),
        compressors=compressors(codec),
        fill_value=0,
        dimension_names=dimensions,
        attributes={
            "long_name": "embedding output" if layer == 0 else f"raw output of block {layer}",
            "logical_dtype": "bfloat16",
            "layer": layer,
            "index_convention": INDEX_CONVENTION,
        },
    )
