"""Read hidden states back. Imports neither torch nor zarr: array metadata is JSON, chunks are plain files.

Letters: N pool rows, S windows stored whole, T positions, D hidden size.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from dihal_core.activations.bfloat16 import to_float32
from dihal_core.activations.chunks import read_rows
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


def read_array(record: StageRecord, array: str) -> np.ndarray:
    """Return one array of the group in memory, every chunk checked against its CRC32C."""
    group = record.path / GROUP
    facts = _metadata(group / array / "zarr.json")
    shape, chunk = tuple(facts["shape"]), tuple(facts["chunk_grid"]["configuration"]["chunk_shape"])
    dtype = np.dtype(facts["data_type"]).newbyteorder("<")
    return read_rows(group, array, shape, chunk[0], dtype.str)


def _held(record: StageRecord, array: str) -> str:
    group = record.path / GROUP
    if not (group / array / "zarr.json").is_file():
        section = (group / array).parent
        known = ", ".join(sorted(path.name for path in section.glob("state_*"))) or "none"
        raise ArtifactError(
            f"store {record.uri} holds no {array}; what lies in {section.name}: {known}; "
            "widen score.first_layer..score.last_layer or activations.whole_sequences and run the study again"
        )
    return array


def _metadata(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"array metadata {path} cannot be read ({error}); run the study again") from error
