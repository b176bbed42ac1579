"""Train and validation windows, split by document. Imports no torch.

Letters: N windows.
"""

import hashlib

import numpy as np

from dihal_core.errors import ConfigError


def split_by_document(document_N: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices of train and validation windows; no document has windows on both sides.

    Documents are taken for validation in the order of a seeded hash until their windows make up
    `fraction` of all (paper section 4: 9:1; splitting by document is ours, windows of one document
    know each other). Independent of the order of documents; within each side windows keep theirs.

    Raises
    ------
    ConfigError
        If there are fewer than two documents.
    """
    documents, counts = np.unique(document_N, return_counts=True)
    if len(documents) < 2:
        raise ConfigError(
            f"{len(document_N)} windows come from {len(documents)} document; a split by document needs two or more, "
            "raise the number of sequences"
        )
    order = sorted(range(len(documents)), key=lambda i: _hash(seed, int(documents[i])))
    wanted = fraction * len(document_N)
    taken, total = [], 0
    for i in order[: len(documents) - 1]:
        taken.append(documents[i])
        total += int(counts[i])
        if total >= wanted:
            break
    held_out = np.isin(document_N, taken)
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _hash(seed: int, document: int) -> bytes:
    return hashlib.sha256(f"{seed}|validation|{document}".encode()).digest()
