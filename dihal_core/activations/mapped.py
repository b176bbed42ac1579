"""Rows of an array by memory map: chunk files have no header, so a row is an address. Imports no torch, no zarr.

Letters: n rows asked for, N rows of the array.
"""

from pathlib import Path

import google_crc32c
import numpy as np

from dihal_core.activations.chunks import CHECKSUM_BYTES
from dihal_core.activations.names import chunk_file
from dihal_core.errors import ArtifactError


class MappedArray:
    """One array of a group written directly (codecs bytes and crc32c), gathered without reading whole chunks.

    Parameters
    ----------
    group, array
        Folder of the Zarr group and name of the array.
    shape, chunk_rows, dtype
        As in the array's metadata (`reader.map_array` reads them).
    check
        Compare a chunk with its CRC32C when it is first touched. Off where the store was re-hashed just
        before (stages do that), or where a few rows of a huge store are wanted.
    """

    def __init__(
        self, group: Path, array: str, shape: tuple[int, ...], chunk_rows: int, dtype: str = "<u2", check: bool = True
    ):
        self.group, self.array, self.shape, self.chunk_rows, self.check = group, array, shape, chunk_rows, check
        self.dtype = np.dtype(dtype)
        self._chunks: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """N."""
        return self.shape[0]

    def gather(self, rows_n: np.ndarray) -> np.ndarray:
        """Return the rows of these indices, in this order, (n, ...) in memory.

        Raises
        ------
        IndexError
            For an index outside 0..N-1.
        ArtifactError
            If a chunk is missing, has another size, or (with `check`) does not match its CRC32C.
        """
        rows_n = np.asarray(rows_n, dtype=np.int64)
        if rows_n.size and (rows_n.min() < 0 or rows_n.max() >= len(self)):
            raise IndexError(f"rows {rows_n.min()}..{rows_n.max()} are outside 0..{len(self) - 1} of {self.array}")
        chunk_n, local_n = np.divmod(rows_n, self.chunk_rows)
        order_n = np.argsort(chunk_n, kind="stable")
        touched, firsts = np.unique(chunk_n[order_n], return_index=True)
        ends = [*firsts[1:].tolist(), len(rows_n)][: len(touched)]
        found = np.empty((len(rows_n), *self.shape[1:]), self.dtype)
        for index, first, end in zip(touched.tolist(), firsts.tolist(), ends, strict=True):
            places_n = order_n[first:end]
            found[places_n] = self._chunk(index)[local_n[places_n]]
        return found

    def _chunk(self, index: int) -> np.ndarray:
        if index not in self._chunks:
            path = chunk_file(self.group, self.array, index, len(self.shape))
            shape = (self.chunk_rows, *self.shape[1:])
            size = int(np.prod(shape)) * self.dtype.itemsize
            try:
                mapped = np.memmap(path, dtype=np.uint8, mode="r")
            except (OSError, ValueError) as error:  # ValueError: an empty file
                raise ArtifactError(f"chunk {path} cannot be mapped ({error}); run the study again") from error
            if len(mapped) != size + CHECKSUM_BYTES:
                raise ArtifactError(f"chunk {path} has {len(mapped)} bytes, not {size + CHECKSUM_BYTES}; run again")
            stored = int.from_bytes(mapped[size:].tobytes(), "little")
            if self.check and google_crc32c.value(np.asarray(mapped[:size])) != stored:
                raise ArtifactError(f"chunk {path} is damaged: its CRC32C differs; run the study again to remake it")
            self._chunks[index] = np.asarray(mapped[:size]).view(self.dtype).reshape(shape)
        return self._chunks[index]
