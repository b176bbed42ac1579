"""Token windows on disk: written by the corpus stage, read by every stage after it. Imports no torch.

Letters: N windows of one split, T tokens per window.

A window starts with the document separator (position 0), holds text of one document, and is padded on
the right. Windows of `train` stand in a seeded hash order, so every prefix `[:n]` is a mixed sample.
"""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np

from dihal_core.errors import ArtifactError, ConfigError, nearest
from dihal_core.store import StageRecord

SPLITS = ("train", "heldout", "eval_wiki")

ARRAYS = {
    "tokens": np.int32,
    "lengths": np.int32,
    "document": np.int32,
    "source": np.int16,
    "bytes": np.int32,
    "words": np.int32,
}


@dataclasses.dataclass(frozen=True)
class Windows:
    """One split. Positions 1..length-1 are text; predictions of tokens 2..length-1 are scored."""

    tokens_NT: np.ndarray
    """int32, memory-mapped, read-only."""
    lengths_N: np.ndarray
    """int32, tokens before the padding, the separator included."""
    document_N: np.ndarray
    """int32, row of documents.jsonl; unique over all splits."""
    source_N: np.ndarray
    """int16, index into `sources`."""
    bytes_N: np.ndarray
    """int32, UTF-8 bytes of the scored text (tokens 2..length-1)."""
    words_N: np.ndarray
    """int32, white-space words that start in the scored text."""
    sources: tuple[str, ...]
    separator_id: int
    pad_id: int

    def __len__(self) -> int:
        return len(self.lengths_N)


def save_windows(folder: Path, split: str, arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays of one split as `<split>/<name>.npy`, each under a temporary name first."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    for name, dtype in ARRAYS.items():
        path = folder / split / f"{name}.npy"
        temporary = path.with_suffix(".npy.tmp")
        with open(temporary, "wb") as handle:
            np.save(handle, np.ascontiguousarray(arrays[name], dtype=dtype), allow_pickle=False)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)


def load_windows(record: StageRecord, split: str) -> Windows:
    """Return the windows of `split` out of a finished corpus store.

    Raises
    ------
    ConfigError
        For an unknown split.
    ArtifactError
        If the store lacks a file or its arrays do not fit together.
    """
    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}{nearest(split, SPLITS)}; choose one of {', '.join(SPLITS)}")
    try:
        facts = json.loads((record.path / "corpus.json").read_bytes())
        arrays = {
            name: np.load(
                record.path / split / f"{name}.npy", mmap_mode="r" if name == "tokens" else None, allow_pickle=False
            )
            for name in ARRAYS
        }
        ids = facts["separator"]["id"], facts["pad"]["id"]
        sources = tuple(row["source"] for row in facts["sources"])
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"corpus store {record.uri} is unreadable ({type(error).__name__}: {error}); "
            "run the study again, it recomputes stage 'corpus'"
        ) from error
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) != 1:
        raise ArtifactError(
            f"corpus store {record.uri} has arrays of different lengths in {split}: {rows}; run it again"
        )
    return Windows(
        arrays["tokens"],
        arrays["lengths"],
        arrays["document"],
        arrays["source"],
        arrays["bytes"],
        arrays["words"],
        sources,
        *ids,
    )
