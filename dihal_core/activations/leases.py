"""Who makes which unit of a dump: byte-range locks on one file, one byte per unit.

A lock dies with its process, also on kill -9, so no unit stays taken by the dead. POSIX record locks
work between processes of one machine and over NFS with a lock daemon; they exclude processes, not
threads of one process.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self


class UnitLeases:
    """Leases of one process on the units of one store. Use as a context manager: leaving it gives all back."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle: BinaryIO = open(path, "ab")  # noqa: SIM115

    def take(self, unit: int, wait: bool = False) -> bool:
        """Try to lease `unit`; with `wait`, block until its holder gives it back or dies.

        Returns
        -------
        bool
            False if another process holds it.
        """
        try:
            fcntl.lockf(self._handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, unit, os.SEEK_SET)
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, whichever the system says
            return False
        return True

    def give_back(self, unit: int) -> None:
        """Give the lease on `unit` back."""
        fcntl.lockf(self._handle, fcntl.LOCK_UN, 1, unit, os.SEEK_SET)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._handle.close()
