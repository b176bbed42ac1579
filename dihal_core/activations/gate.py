"""Who may take part in a dump: helpers in processes that somebody else started, such as workers of a cluster.

The process that makes the store opens a gate for as long as there are units to make; helpers come in
while it is open. Both are locks (flock) on files beside the store, so they die with their holders: a
helper never waits for a killed dump, and a dump never for a killed helper. The store is finished when
the gate is closed and the last helper has left.
"""

import contextlib
import fcntl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from dihal_core.errors import ResourceError

STAGE = "activations"
POLL_SECONDS = 0.2
STOP_SECONDS = 60.0
"""How long a helper may take to end after all units are committed."""

_lock = threading.Lock()
_taking_part: set[tuple[Path, str]] = set()
"""Dumps this process is at work on: unit leases exclude processes, not threads of one process."""


class DumpGate:
    """The two locks of one dump."""

    def __init__(self, home: Path, key: str):
        self.name = (home, key)
        self.gate, self.inside = home / STAGE / f".{key}.gate", home / STAGE / f".{key}.inside"

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Let helpers in while the block runs; afterwards wait until the last has left.

        Raises
        ------
        ResourceError
            If one does not leave although the block has ended.
        """
        try:
            with self._once(), _locked(self.gate, fcntl.LOCK_EX):
                yield
        finally:
            self._wait_until_empty()

    @contextlib.contextmanager
    def enter(self) -> Iterator[bool]:
        """Say whether this process may help; it may not where it takes part already, or the gate has closed."""
        with self._once() as first, _locked(self.inside, fcntl.LOCK_SH):
            yield first and self.is_open()

    def is_open(self) -> bool:
        """Say whether a process is making the store now."""
        return self.gate.exists() and _held(self.gate, fcntl.LOCK_SH)

    @contextlib.contextmanager
    def _once(self) -> Iterator[bool]:
        with _lock:
            first = self.name not in _taking_part
            _taking_part.add(self.name)
        try:
            yield first
        finally:
            if first:
                with _lock:
                    _taking_part.discard(self.name)

    def _wait_until_empty(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        while self.inside.exists() and _held(self.inside, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise ResourceError(
                    f"a helper of the dump {self.name[1]} did not leave within {STOP_SECONDS:.0f} s; end the process "
                    f"that holds a lock on {self.inside} and run the study again, finished units are kept"
                )
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _locked(path: Path, kind: int) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as handle:
        fcntl.flock(handle, kind)
        yield


def _held(path: Path, kind: int) -> bool:
    """Say whether somebody holds a lock on `path` that excludes one of `kind`."""
    with open(path, "ab") as handle:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
