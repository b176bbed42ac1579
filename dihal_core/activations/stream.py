"""Whole windows of one layer, batch after batch, read by a thread while the last ones are used. Imports no torch.

Letters: B windows of a batch, T positions, D hidden size.
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

import numpy as np

from dihal_core.activations.mapped import MappedArray

POLL_SECONDS = 0.1


class WindowStream:
    """Iterate over `(windows_B, bits_BTD)`; at most `depth` batches wait in memory.

    Use as a context manager: leaving it stops the thread, also in the middle. An error of the reader
    (damaged chunk) is raised where the batch would have come.

    Parameters
    ----------
    states
        Array of whole windows (`reader.map_whole`).
    batches
        Indices of each batch, in the order they are wanted; may be a generator.
    depth
        Batches read ahead.
    """

    def __init__(self, states: MappedArray, batches: Iterable[np.ndarray], depth: int = 2):
        self._states, self._batches = states, batches
        self._queue: queue.Queue[tuple[np.ndarray, np.ndarray] | BaseException | None] = queue.Queue(max(depth, 1))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="window-stream", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def _read(self) -> None:
        try:
            for windows_B in self._batches:
                if not self._offer((windows_B, self._states.gather(windows_B))):
                    return
            self._offer(None)
        except BaseException as error:  # raised in the thread that iterates
            self._offer(error)

    def _offer(self, item: tuple[np.ndarray, np.ndarray] | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False
