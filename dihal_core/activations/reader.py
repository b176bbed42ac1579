"""Read hidden states back. Imports neither torch nor zarr: array metadata is JSON, chunks are plain files.

Three ways: `load_pool` and `load_whole` bring one layer into memory once, every chunk checked;
`map_array` gathers rows of an array too large for that; `stream.WindowStream` reads whole windows ahead.

Letters: N pool rows, S windows stored whole, T positions, D hidden size.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from dihal_core.activations.bfloat16 import to_float32
from dihal_core.activations.chunks import read_rows
from dihal_core.activations.mapped import MappedArray
from dihal_core.activations.names import GROUP, ROWS, pool_array, whole_array
from dihal_core.errors import ArtifactError
from dihal_core.store import StageRecord


@dataclasses.dataclass(frozen=True)
class Pool:
    """Sampled token states of one layer, and where each comes from."""

    rows_ND: np.ndarray
    """float32, exact values of the stored bfloat16."""
    sequence_N: np.ndarray
    position_N: np.ndarray
    document_N: np.ndarray


def load_pool(record: StageRecord, layer: int) -> Pool:
    """Return the geometry pool of `layer` from a store of stage `activations`.

    Raises
    ------
    ArtifactError
        If the layer is not in the store, or a chunk is missing or damaged.
    """
    rows_N3 = read_array(record, ROWS)
    bits_ND = read_array(record, _held(record, pool_array(layer)))
    return Pool(to_float32(bits_ND), *(np.ascontiguousarray(rows_N3[:, column]) for column in range(3)))


def load_whole(record: StageRecord, layer: int) -> np.ndarray:
    """Return all states of the windows stored whole, bfloat16 bit patterns, uint16 (S, T, D).

    Raises
    ------
    ArtifactError
        If the layer is not stored whole, or a chunk is missing or damaged.
    """
    return read_array(record, _held(record, whole_array(layer)))


def map_whole(record: StageRecord, layer: int, check: bool = True) -> MappedArray:
    """Return the array of whole windows of `layer`, (S, T, D) uint16, for gathering rows by memory map.

    Raises
    ------
    ArtifactError
        If the layer is not stored whole.
    """
    return map_array(record.path / GROUP, _held(record, whole_array(layer)), check)


def map_array(group: Path, array: str, check: bool = True) -> MappedArray:
    """Return one array of a group for gathering rows by memory map; see `MappedArray` for `check`."""
    shape, chunk_rows, dtype = _form(group, array)
    return MappedArray(group, array, shape, chunk_rows, dtype, check)


def read_array(record: StageRecord, array: str) -> np.ndarray:
    """Return one array of the group in memory, every chunk checked against its CRC32C."""
    shape, chunk_rows, dtype = _form(record.path / GROUP, array)
    return read_rows(record.path / GROUP, array, shape, chunk_rows, dtype)


def _form(group: Path, array: str) -> tuple[tuple[int, ...], int, str]:
    facts = _metadata(group / array / "zarr.json")
    shape, chunk = tuple(facts["shape"]), tuple(facts["chunk_grid"]["configuration"]["chunk_shape"])
    return shape, chunk[0], np.dtype(facts["data_type"]).newbyteorder("<").str


def _held(record: StageRecord, array: str) -> str:
    group = record.path / GROUP
    if not (group / array / "zarr.json").is_file():
        section = (group / array).parent
        known = ", ".join(sorted(path.name for path in section.glob("state_*"))) or "none"
        raise ArtifactError(
            f"store {record.uri} holds no {array}; what lies in {section.name}: {known}; "
            "widen score.first_layer..score.last_layer, or set targets.source=stored, and run the study again"
        )
    return array


def _metadata(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"array metadata {path} cannot be read ({error}); run the study again") from error
