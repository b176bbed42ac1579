"""Chunk files of an unsharded Zarr v3 array with codecs bytes and crc32c, written and read directly.

A chunk is C-order little-endian values followed by the CRC32C of those bytes (4 bytes, little-endian).
The last chunk of an array has the full size too, filled up with zeros. A finished chunk file is read-only.
Imports no torch.
"""

import os
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np

from dihal_core.activations.names import chunk_file
from dihal_core.errors import ArtifactError

CHECKSUM_BYTES = 4
READ_ONLY = 0o444
BLOCK_BYTES = 8 * 2**20


class ArrayAppender:
    """Append rows to one array, chunk file by chunk file; memory does not grow with the chunk.

    Parameters
    ----------
    group, array
        Folder of the Zarr group and name of the array inside it.
    shape
        Shape of the whole array.
    chunk_rows
        Rows of one chunk.
    first_row
        Row at which appending starts. Rows before the next chunk border are dropped: their chunk
        was completed by the attempt that wrote them.
    """

    def __init__(self, group: Path, array: str, shape: tuple[int, ...], chunk_rows: int, first_row: int):
        self.group, self.array, self.shape, self.chunk_rows = group, array, shape, chunk_rows
        self.next_row = first_row
        self._drop_until = -(-first_row // chunk_rows) * chunk_rows
        self._handle: BinaryIO | None = None
        self._path = group
        self._checksum = 0
        self._completed: dict[str, int] = {}

    def append(self, rows: np.ndarray) -> int:
        """Write uint16 rows behind those that are there and return the bytes written."""
        rows = rows[: self.shape[0] - self.next_row]
        dropped = min(max(self._drop_until - self.next_row, 0), len(rows))
        rows, self.next_row = rows[dropped:], self.next_row + dropped
        written = 0
        while len(rows):
            room = self.chunk_rows - self.next_row % self.chunk_rows
            part, rows = np.ascontiguousarray(rows[:room], dtype="<u2"), rows[room:]
            self._write(part)
            written += part.nbytes
            self.next_row += len(part)
            if self.next_row % self.chunk_rows == 0 or self.next_row == self.shape[0]:
                self._complete()
        return written

    def take_completed(self) -> dict[str, int]:
        """Return `{chunk index: CRC32C of its values}` of the chunks completed since the last call."""
        completed, self._completed = self._completed, {}
        return completed

    def close(self) -> None:
        """Give up an unfinished chunk: its `.tmp` file is removed by the next attempt."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def _write(self, part: np.ndarray) -> None:
        if self._handle is None:
            index = self.next_row // self.chunk_rows
            self._path = chunk_file(self.group, self.array, index, len(self.shape))
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = open(self._path.with_name(f"{self._path.name}.tmp"), "wb")  # noqa: SIM115
            self._checksum = 0
        self._handle.write(part.data)
        self._checksum = google_crc32c.extend(self._checksum, part.reshape(-1).view(np.uint8))

    def _complete(self) -> None:
        missing = -self.next_row % self.chunk_rows
        if missing:
            self._write(np.zeros((missing, *self.shape[1:]), dtype="<u2"))
        handle, self._handle = self._handle, None
        if handle is not None:
            with handle:
                handle.write(self._checksum.to_bytes(CHECKSUM_BYTES, "little"))
                handle.flush()
                os.fsync(handle.fileno())
                os.fchmod(handle.fileno(), READ_ONLY)
        os.replace(self._path.with_name(f"{self._path.name}.tmp"), self._path)
        self._completed[str((self.next_row - 1) // self.chunk_rows)] = self._checksum


def chunk_checksum(path: Path, value_bytes: int) -> int | None:
    """Return the CRC32C of a chunk of `value_bytes` bytes of values, or None if it is missing, torn or flipped.

    Reads in blocks, so memory does not grow with the chunk.
    """
    try:
        with open(path, "rb") as handle:
            found, left = 0, value_bytes
            while left and (block := handle.read(min(left, BLOCK_BYTES))):
                found, left = google_crc32c.extend(found, block), left - len(block)
            stored = handle.read()
    except OSError:
        return None
    return found if not left and stored == found.to_bytes(CHECKSUM_BYTES, "little") else None


def read_chunk(path: Path, shape: tuple[int, ...], dtype: str = "<u2") -> np.ndarray:
    """Return one chunk after comparing its checksum.

    Raises
    ------
    ArtifactError
        If the file is missing, has another size, or does not match its CRC32C.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"chunk {path} cannot be read ({error}); run the study again to remake its stage"
        ) from error
    expected = int(np.prod(shape)) * np.dtype(dtype).itemsize + CHECKSUM_BYTES
    stored = int.from_bytes(data[-CHECKSUM_BYTES:], "little")
    if len(data) != expected or google_crc32c.value(data[:-CHECKSUM_BYTES]) != stored:
        raise ArtifactError(
            f"chunk {path} is damaged ({len(data)} bytes, expected {expected}, or its CRC32C differs); "
            "run the study again to remake its stage"
        )
    return np.frombuffer(data, dtype=dtype, count=int(np.prod(shape))).reshape(shape)


def read_rows(group: Path, array: str, shape: tuple[int, ...], chunk_rows: int, dtype: str = "<u2") -> np.ndarray:
    """Return a whole array, every chunk checked."""
    values = np.empty(shape, dtype=dtype)
    for start in range(0, shape[0], chunk_rows):
        path = chunk_file(group, array, start // chunk_rows, len(shape))
        chunk = read_chunk(path, (chunk_rows, *shape[1:]), dtype)
        values[start : start + chunk_rows] = chunk[: shape[0] - start]
    return values
