"""A thread that writes states while the model computes the next ones.

The queue is bounded, so memory does not grow when the disk is slow; an error in the thread (disk
full, say) is raised in the caller at its next call, and nothing waits for ever. At most one complete
unit waits for its commit, which is what a kill can cost beside the batches begun after it.
"""

import dataclasses
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import numpy as np

from dihal_core.activations.destination import Appender, Destination
from dihal_core.activations.names import pool_array, whole_array
from dihal_core.activations.plan import DumpPlan, Unit
from dihal_core.store import StageStore

QUEUE_BATCHES = 2
POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Part:
    """The states of one batch, and what it means for the unit it belongs to."""

    states: Mapping[str, np.ndarray]
    unit: Unit
    opens: bool = False
    """The batch does not follow the one before: arrays are opened at the beginning of its unit."""
    finishes: bool = False
    """The batch is the last one of its unit, which is committed after it."""
    after: Callable[[], None] | None = None
    """Called when the unit is committed."""


class StateWriter:
    """Append batches of states to all arrays of a dump and commit units, in order, in one thread.

    Use as a context manager: leaving it waits until everything is on disk, or drops what is queued
    if the block failed.
    """

    def __init__(self, store: StageStore, plan: DumpPlan, destination: Destination):
        self._store, self._plan, self._destination = store, plan, destination
        self._arrays: dict[str, Appender] = {}
        self._queue: queue.Queue[Part | None] = queue.Queue(QUEUE_BATCHES)
        self._error: BaseException | None = None
        self._uncommitted = 0
        self._changed = threading.Condition()
        self._unit_bytes, self._unit_started = 0, time.monotonic()
        self._thread = threading.Thread(target=self._run, name="state-writer", daemon=True)
        self._thread.start()

    def put(self, part: Part) -> None:
        """Queue one batch.

        Raises
        ------
        Exception
            Whatever stopped the thread.
        """
        if part.finishes:
            with self._changed:
                self._uncommitted += 1
        while True:
            self._raise_error()
            try:
                self._queue.put(part, timeout=POLL_SECONDS)
                return
            except queue.Full:
                continue

    def wait_for_commits(self) -> None:
        """Return when every unit whose last batch was queued is committed; raises what stopped the thread."""
        with self._changed:
            while self._uncommitted and self._error is None:
                self._changed.wait(POLL_SECONDS)
        self._raise_error()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._drain()
        while self._thread.is_alive():
            try:
                self._queue.put(None, timeout=POLL_SECONDS)
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
            while (part := self._queue.get()) is not None:
                if part.opens:
                    self._open(part.unit)
                for name, rows in part.states.items():
                    self._unit_bytes += self._arrays[name].append(rows)
                if part.finishes:
                    self._commit(part)
        except BaseException as error:  # handed to the caller, who raises it
            self._error = error
        finally:
            self._close()
            with self._changed:
                self._changed.notify_all()

    def _open(self, unit: Unit) -> None:
        self._close()
        plan, make = self._plan, self._destination.appender
        shape = (len(plan.rows_M3), plan.hidden_size)
        self._arrays = {
            pool_array(layer): make(pool_array(layer), shape, plan.chunk_rows, unit.rows.start)
            for layer in plan.table_layers
        }
        if unit.windows.start < plan.whole_sequences:
            shape = (plan.whole_sequences, plan.positions, plan.hidden_size)
            for layer in plan.whole_layers:
                name = whole_array(layer)
                self._arrays[name] = make(name, shape, plan.whole_chunk_rows, unit.windows.start)
        self._unit_bytes, self._unit_started = 0, time.monotonic()

    def _close(self) -> None:
        for array in self._arrays.values():
            array.close()

    def _commit(self, part: Part) -> None:
        unit, now = part.unit, time.monotonic()
        earlier = self._store.committed_unit(unit.name).get("crc32c", {})
        checksums = {name: {**earlier.get(name, {}), **array.take_completed()} for name, array in self._arrays.items()}
        self._store.commit(
            unit.name,
            {
                "windows": [unit.windows.start, unit.windows.stop],
                "rows": [unit.rows.start, unit.rows.stop],
                "bytes": self._unit_bytes,
                "seconds": round(now - self._unit_started, 3),
                "process": os.getpid(),
                "crc32c": {name: chunks for name, chunks in checksums.items() if chunks},
            },
        )
        self._unit_bytes, self._unit_started = 0, now
        with self._changed:
            self._uncommitted -= 1
            self._changed.notify_all()
        if part.after is not None:
            part.after()
