"""Stores that no study refers to (`dihal_core.references`), and their removal without tearing one that is in use.

Whatever is younger than the cutoff, or whose lock somebody holds, stays. Imports no torch.
"""

import contextlib
import dataclasses
import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from dihal_core.errors import ResourceError
from dihal_core.files import MANIFEST
from dihal_core.references import DAMAGED, PARTIAL, REMOVED, referred, store_key
from dihal_core.stages import STAGES

IN_USE = ".studies.lock"
"""Every running study holds it shared; removal wants it alone. It dies with its holders."""
DEFAULT_AGE_DAYS = 7.0


@dataclasses.dataclass(frozen=True)
class Leftover:
    """A folder under `<home>/<stage>` that nothing needs."""

    path: Path
    kind: str
    """`store`, `unfinished`, `damaged` or `removed` (an earlier removal that was interrupted)."""
    bytes: int
    age_days: float
    held: bool
    """Somebody holds its lock: it is being made, and stays."""

    @property
    def key(self) -> str:
        """Name of its store, without what unfinished or damaged ones carry behind it."""
        return store_key(self.path.name)


def leftovers(home: Path, older_than_days: float = DEFAULT_AGE_DAYS) -> list[Leftover]:
    """Return what nothing needs, oldest first: unused stores, unfinished and damaged ones.

    Parameters
    ----------
    home : Path
        Folder of all stores (local; `dihal_core.remote.unused` does the same for a remote home).
    older_than_days : float
        Younger ones are left out: a study that has not written its result yet may be about to use them.
    """
    kept, found = referred(home), []
    for stage in STAGES:
        for folder in sorted(path for path in (home / stage).glob("*") if path.is_dir()):
            kind = _kind(folder)
            if kind == "store" and f"{stage}/{folder.name}" in kept:
                continue
            age = (time.time() - _newest(folder)) / 86400
            if age >= older_than_days:
                key = store_key(folder.name)
                found.append(Leftover(folder, kind, _bytes(folder), age, _held(folder.parent, key)))
    return sorted(found, key=lambda leftover: -leftover.age_days)


def _kind(folder: Path) -> str:
    for mark, kind in ((PARTIAL, "unfinished"), (DAMAGED, "damaged"), (REMOVED, "removed")):
        if mark in folder.name:
            return kind
    return "store"


def _newest(folder: Path) -> float:
    """Return when anything in `folder` was last written (seconds since the epoch)."""
    times = [folder.stat().st_mtime]
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return max(times)


def _bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _held(stage: Path, key: str) -> bool:
    if not (stage / f".{key}.lock").exists():
        return False
    with try_lock(stage / f".{key}.lock", fcntl.LOCK_EX) as handle:
        return handle is None


@contextlib.contextmanager
def try_lock(path: Path, kind: int) -> Iterator[BinaryIO | None]:
    """Yield the locked handle, or None if somebody else holds it."""
    with open(path, "ab") as handle:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield handle


def hold_home(home: Path) -> BinaryIO:
    """Say that a study is running in `home`; keep the handle as long as it does (its end, also by kill -9, lets go)."""
    home.mkdir(parents=True, exist_ok=True)
    handle = open(home / IN_USE, "ab")  # noqa: SIM115
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


def remove(home: Path, chosen: Iterable[Leftover]) -> list[Leftover]:
    """Remove leftovers, each under its lock, its name freed by one rename before anything is deleted.

    Returns
    -------
    list of Leftover
        What was removed; what somebody began to make, or a study came to need, meanwhile is not among it.

    Raises
    ------
    ResourceError
        If a study is running in `home`: it may be about to use any of them.
    ArtifactError
        If what the studies refer to cannot be read.
    """
    with try_lock(home / IN_USE, fcntl.LOCK_EX) as alone:
        if alone is None:
            raise ResourceError(
                f"a study is running in {home} and may be about to use these stores; wait until it has ended, then "
                "run the same command again (nothing was removed)"
            )
        kept, done = referred(home), []
        for leftover in chosen:
            if leftover.kind == "store" and f"{leftover.path.parent.name}/{leftover.path.name}" in kept:
                continue
            with try_lock(leftover.path.parent / f".{leftover.key}.lock", fcntl.LOCK_EX) as mine:
                if mine is None or not leftover.path.is_dir():
                    continue
                doomed = leftover.path.with_name(f"{leftover.key}{REMOVED}{time.time_ns()}")
                os.rename(leftover.path, doomed)
                (doomed / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(doomed)
                done.append(leftover)
        return done
