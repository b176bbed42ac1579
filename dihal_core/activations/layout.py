"""The Zarr v3 group of hidden states: array metadata and small arrays.

zarr-python writes the metadata and can read everything; chunks of states are written as plain files,
which is the same bytes: little-endian values in C order, then their CRC32C in 4 bytes.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from dihal_core.activations.names import ROWS, pool_array, whole_array
from dihal_core.activations.plan import DumpPlan

INDEX_CONVENTION = (
    "state_00 is what enters block 1 (embedding output); state_LL is the raw output of block LL, counted from 1; "
    "the last one has not passed the final norm"
)


def create_group(path: Path, plan: DumpPlan, backbone: Mapping[str, str | int | None]) -> None:
    """Write metadata of all arrays, and the small arrays whole. Repeats itself after an interruption.

    Parameters
    ----------
    backbone
        Facts that a stranger needs to read the states (name, model type, dtype of the forward).
    """
    root = zarr.open_group(path, mode="w", zarr_format=3)
    root.attrs.update(
        {
            "format": "DiHAL hidden states, version 1",
            "index_convention": INDEX_CONVENTION,
            "logical_dtype": "bfloat16 (bit patterns in uint16)",
            "backbone": dict(backbone),
            "batch_shape": [plan.batch_sequences, plan.positions],
            "table_layers": list(plan.table_layers),
            "candidate_layers": list(plan.candidate_layers),
            "pool": "sampled token states of training windows; which ones: geom/rows",
            "full": "all positions of the first windows; position 0 is the prefix token, pads follow `lengths`",
        }
    )
    _small(root, "tokens", plan.tokens_NT, ("sequence", "position"))
    _small(root, "lengths", plan.lengths_N, ("sequence",))
    _small(root, "documents", plan.document_N, ("sequence",))
    rows = _small(root, ROWS, plan.rows_M3, ("row", "field"))
    rows.attrs["fields"] = ["sequence", "position", "document"]
    for layer in plan.table_layers:
        shape = (len(plan.rows_M3), plan.hidden_size)
        _states(root, pool_array(layer), shape, plan.chunk_rows, ("row", "hidden"), layer)
    if plan.whole_sequences:
        for layer in plan.candidate_layers:
            shape = (plan.whole_sequences, plan.positions, plan.hidden_size)
            _states(root, whole_array(layer), shape, plan.unit_windows, ("sequence", "position", "hidden"), layer)


def _small(root: zarr.Group, name: str, values: np.ndarray, dimensions: tuple[str, ...]) -> zarr.Array:
    values = np.ascontiguousarray(values, dtype=np.int32)
    array = root.create_array(
        name,
        shape=values.shape,
        chunks=(min(max(len(values), 1), 65536), *values.shape[1:]),
        dtype="int32",
        serializer=BytesCodec(endian="little"),
        compressors=[Crc32cCodec()],
        fill_value=-1,
        dimension_names=dimensions,
    )
    array[:] = values
    return array


def _states(
    root: zarr.Group, name: str, shape: tuple[int, ...], chunk_rows: int, dimensions: tuple[str, ...], layer: int
) -> None:
    root.create_array(
        name,
        shape=shape,
        chunks=(chunk_rows, *shape[1:]),
        dtype="uint16",
        serializer=BytesCodec(endian="little"),
        compressors=[Crc32cCodec()],
        fill_value=0,
        dimension_names=dimensions,
        attributes={"logical_dtype": "bfloat16", "layer": layer, "index_convention": INDEX_CONVENTION},
    )
