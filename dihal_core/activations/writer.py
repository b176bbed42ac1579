"""A thread that writes states while the model computes the next ones.

The queue is bounded, so memory does not grow when the disk is slow; an error in the thread (disk
full, say) is raised in the caller at its next call, and nothing waits for ever.
"""

import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from dihal_core.activations.chunks import ArrayAppender
from dihal_core.activations.names import GROUP, pool_array, whole_array
from dihal_core.activations.plan import DumpPlan, Unit
from dihal_core.store import StageStore

QUEUE_BATCHES = 2


class StateWriter:
    """Append batches of states to all arrays of a dump and commit units, in order, in one thread.

    Use as a context manager: leaving it waits until everything is on disk, or drops what is queued
    if the block failed.
    """

    def __init__(self, store: StageStore, plan: DumpPlan, first: Unit):
        group = store.path / GROUP
        self._store = store
        self._arrays: dict[str, ArrayAppender] = {
            pool_array(layer): _pool_appender(group, plan, layer, first) for layer in plan.table_layers
        }
        if first.windows.start < plan.whole_sequences:
            self._arrays |= {
                whole_array(layer): _whole_appender(group, plan, layer, first) for layer in plan.candidate_layers
            }
        self._queue: queue.Queue[tuple[Mapping[str, np.ndarray], Unit | None] | None] = queue.Queue(QUEUE_BATCHES)
        self._error: BaseException | None = None
        self._unit_bytes, self._unit_started = 0, time.monotonic()
        self._thread = threading.Thread(target=self._run, name="state-writer", daemon=True)
        self._thread.start()

    def put(self, states: Mapping[str, np.ndarray], finishes: Unit | None = None) -> None:
        """Queue rows per array name; `finishes` is the unit that is complete with this batch.

        Raises
        ------
        Exception
            Whatever stopped the thread.
        """
        while True:
            self._raise_error()
            try:
                self._queue.put((states, finishes), timeout=0.2)
                return
            except queue.Full:
                continue

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._drain()
        while self._thread.is_alive():
            try:
                self._queue.put(None, timeout=0.2)
                break
            except queue.Full:
                continue
        self._thread.join()
        if error is None:
            self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _drain(self) -> None:
        while not self._queue.empty():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                return

    def _run(self) -> None:
        try:
            while (item := self._queue.get()) is not None:
                states, finished = item
                for name, rows in states.items():
                    self._unit_bytes += self._arrays[name].append(rows)
                if finished is not None:
                    self._commit(finished)
        except BaseException as error:  # handed to the caller, who raises it
            self._error = error
        finally:
            for array in self._arrays.values():
                array.close()

    def _commit(self, unit: Unit) -> None:
        now = time.monotonic()
        self._store.commit(
            unit.name,
            {
                "windows": [unit.windows.start, unit.windows.stop],
                "rows": [unit.rows.start, unit.rows.stop],
                "bytes": self._unit_bytes,
                "seconds": round(now - self._unit_started, 3),
            },
        )
        self._unit_bytes, self._unit_started = 0, now


def _pool_appender(group: Path, plan: DumpPlan, layer: int, first: Unit) -> ArrayAppender:
    shape = (len(plan.rows_M3), plan.hidden_size)
    return ArrayAppender(group, pool_array(layer), shape, plan.chunk_rows, first.rows.start)


def _whole_appender(group: Path, plan: DumpPlan, layer: int, first: Unit) -> ArrayAppender:
    shape = (plan.whole_sequences, plan.positions, plan.hidden_size)
    return ArrayAppender(group, whole_array(layer), shape, plan.unit_windows, first.windows.start)
