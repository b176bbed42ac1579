"""Windows made while shards were being read, kept beside the spool and found again by document.

Tokenising a document depends on the document alone, so it need not wait for the choice: whatever the
plan will look at first is tokenised as soon as its shard is read, while other shards are still coming in.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from dihal_core.corpus.documents import Document
from dihal_core.corpus.tokenise import DocumentWindows, WindowEncoder
from dihal_core.files import write_atomically

BATCH_CHARACTERS = 1_000_000
BATCH_DOCUMENTS = 512
COUNTS = ("lengths", "bytes", "words", "index")


def in_batches(documents: Sequence[Document]) -> Iterator[list[Document]]:
    """Split `documents` into batches for the tokenizer, bounded in number and characters."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class Prepared:
    """Windows by identity of the document."""

    def __init__(self):
        self._tokens: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []
        self._places: dict[str, tuple[int, int, int, int, str | None]] = {}

    @staticmethod
    def write(
        folder: Path, unit: str, encoder: WindowEncoder, likely: Iterable[tuple[Sequence[Document], int]]
    ) -> None:
        """Tokenise the documents of one unit and write their windows into `folder`.

        Parameters
        ----------
        likely
            (documents, most windows of each) by side of the split.
        """
        tokens, counts, places, row = [], [], [], 0
        for documents, cap in likely:
            for batch in in_batches(documents):
                for document, found in zip(batch, encoder.encode_anew(batch, cap), strict=True):
                    if isinstance(found, str):
                        places.append([document.identity, 0, 0, cap, found])
                        continue
                    tokens.append(found.tokens_NT)
                    counts.append(np.stack([found.lengths_N, found.bytes_N, found.words_N, found.index_N], axis=1))
                    places.append([found.identity, row, row + len(found), cap, None])
                    row += len(found)
        empty = np.empty((0, encoder.window_tokens), dtype=np.int32)
        _save(folder / f"{unit}.tokens.npy", np.concatenate([empty, *tokens]))
        _save(folder / f"{unit}.counts.npy", np.concatenate([np.empty((0, len(COUNTS)), dtype=np.int32), *counts]))
        write_atomically(folder / f"{unit}.places.json", json.dumps(places).encode())

    @classmethod
    def load(cls, folder: Path, units: Iterable[str]) -> "Prepared":
        """Return what `units` left in `folder`. Tokens stay on disk until they are used."""
        prepared = cls()
        for unit in units:
            path = folder / f"{unit}.places.json"
            if not path.is_file():  # a unit that was finished without it is tokenised later
                continue
            number = len(prepared._tokens)
            prepared._tokens.append(np.load(folder / f"{unit}.tokens.npy", mmap_mode="r", allow_pickle=False))
            prepared._counts.append(np.load(folder / f"{unit}.counts.npy", allow_pickle=False))
            for identity, start, stop, cap, reason in json.loads(path.read_bytes()):
                prepared._places[identity] = number, start, stop, cap, reason
        return prepared

    def __len__(self) -> int:
        return len(self._places)

    def find(self, document: Document, cap: int) -> DocumentWindows | str | None:
        """Return what `WindowEncoder.encode` gives for `document`, or None if it was not prepared for `cap`."""
        identity = document.identity
        if identity not in self._places:
            return None
        number, start, stop, made_for, reason = self._places[identity]
        if reason is not None:
            return reason
        if stop - start == made_for < cap:  # there may be more windows than were made
            return None
        stop = min(stop, start + cap)
        columns = self._counts[number][start:stop].T
        return DocumentWindows(document, identity, self._tokens[number][start:stop], *columns)


def _save(path: Path, array: np.ndarray) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    with open(temporary, "wb") as handle:
        np.save(handle, array, allow_pickle=False)
    os.replace(temporary, path)
