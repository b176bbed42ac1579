"""Names inside a store of hidden states. Imports nothing heavy."""

from pathlib import Path

GROUP = "states.zarr"
"""Folder of the Zarr v3 group inside the store."""

ROWS = "geom/rows"

SINKS = "sinks.json"
"""File of the store: norms and massive tokens per layer."""


def pool_array(layer: int) -> str:
    """Return the array of sampled token states of `layer` inside the group."""
    return f"geom/state_{layer:02d}"


def whole_array(layer: int) -> str:
    """Return the array of whole windows of `layer` inside the group."""
    return f"full/state_{layer:02d}"


def chunk_file(group: Path, array: str, index: int, dimensions: int) -> Path:
    """Return the file of chunk `index` along the first dimension (the others have one chunk)."""
    return group.joinpath(array, "c", str(index), *["0"] * (dimensions - 1))
