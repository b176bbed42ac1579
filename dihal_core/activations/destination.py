"""Where chunks of states go: plain files on a local disk, or whatever zarr-python can write to.

The direct writer (`chunks.ArrayAppender`) needs a folder and no compression. Everything else (an
fsspec URL such as `s3://bucket/states.zarr` or `memory://states.zarr`, or a compressing codec) goes
through zarr-python, which costs more CPU and holds one chunk per array in memory.
"""

import dataclasses
from pathlib import Path
from typing import Any, Protocol

import google_crc32c
import numpy as np
import zarr

from dihal_core.activations.chunks import ArrayAppender, chunk_checksum
from dihal_core.activations.names import chunk_file


class Appender(Protocol):
    """Appends rows to one array."""

    def append(self, rows: np.ndarray) -> int:
        """Add uint16 rows behind those that are there; return the bytes of values taken."""
        ...

    def take_completed(self) -> dict[str, int]:
        """Return `{chunk index: CRC32C of its values}` of the chunks completed since the last call."""
        ...

    def close(self) -> None:
        """Give up an unfinished chunk."""
        ...


@dataclasses.dataclass(frozen=True)
class Destination:
    """The Zarr group of a dump: a folder, or an fsspec URL, with or without compression."""

    group: Path | str
    codec: str | None = None
    """A key of `codecs.CODECS`; None stores values as they are, which is what the direct writer can do."""

    @property
    def direct(self) -> bool:
        """Whether chunks are written as plain files, without zarr-python."""
        return isinstance(self.group, Path) and self.codec is None

    def appender(self, array: str, shape: tuple[int, ...], chunk_rows: int, first_row: int) -> Appender:
        """Return what appends to `array` from `first_row` on (see `ArrayAppender`)."""
        if self.direct and isinstance(self.group, Path):
            return ArrayAppender(self.group, array, shape, chunk_rows, first_row)
        return ZarrAppender(self._open()[array], chunk_rows, first_row)

    def checksum(self, array: str, index: int, shape: tuple[int, ...], chunk_rows: int) -> int | None:
        """Return the CRC32C of the values of one chunk as they lie there, None if it is missing or damaged."""
        if self.direct and isinstance(self.group, Path):
            path = chunk_file(self.group, array, index, len(shape))
            return chunk_checksum(path, chunk_rows * int(np.prod(shape[1:])) * 2)
        try:
            stored: Any = self._open()[array]
            values = stored[index * chunk_rows : (index + 1) * chunk_rows]
        except Exception:  # any codec or storage error means the chunk cannot be used
            return None
        return checksum_of(values)

    def _open(self) -> Any:
        return zarr.open_group(self.group, mode="r+")


class ZarrAppender:
    """The same as `ArrayAppender` through zarr-python: whole chunks are assigned as soon as they are full."""

    def __init__(self, array: Any, chunk_rows: int, first_row: int):
        self.array, self.chunk_rows, self.next_row = array, chunk_rows, first_row
        self._drop_until = -(-first_row // chunk_rows) * chunk_rows
        self._held: list[np.ndarray] = []
        self._held_rows = 0
        self._completed: dict[str, int] = {}

    def append(self, rows: np.ndarray) -> int:
        """Hold rows until their chunk is full or the array ends, then assign it."""
        rows = rows[: self.array.shape[0] - self.next_row]
        dropped = min(max(self._drop_until - self.next_row, 0), len(rows))
        rows, self.next_row = rows[dropped:], self.next_row + dropped
        taken = rows.nbytes
        while len(rows):
            part, rows = np.split(rows, [self.chunk_rows - self.next_row % self.chunk_rows])
            self._held.append(np.array(part, dtype="<u2"))
            self._held_rows += len(part)
            self.next_row += len(part)
            if self.next_row % self.chunk_rows == 0 or self.next_row == self.array.shape[0]:
                self._complete()
        return taken

    def take_completed(self) -> dict[str, int]:
        """Return `{chunk index: CRC32C of its values}` of the chunks completed since the last call."""
        completed, self._completed = self._completed, {}
        return completed

    def close(self) -> None:
        """Give up an unfinished chunk."""
        self._held, self._held_rows = [], 0

    def _complete(self) -> None:
        values = np.concatenate(self._held)
        self.array[self.next_row - self._held_rows : self.next_row] = values
        self._completed[str((self.next_row - 1) // self.chunk_rows)] = checksum_of(values)
        self.close()


def checksum_of(values: np.ndarray) -> int:
    """Return the CRC32C of uint16 values in C order."""
    return google_crc32c.value(np.ascontiguousarray(values, dtype="<u2").tobytes())
