"""Stop marks of a home: how a run that was asked to stop tells machines that its signals do not reach.

A mark is `<home>/stops/<run>.json`; on a remote home all machines see it. It changes no result and no key.
"""

import contextlib
import time
from pathlib import Path

from dihal_core.files import dump_json
from dihal_core.journal import now
from dihal_core.remote.address import remote_address
from dihal_core.remote.link import read_shared, write_shared

STOPS = "stops"
KEPT_SECONDS = 7 * 24 * 3600.0
"""A mark that is older reaches nobody any more."""
MOST_FORGOTTEN = 50
"""Marks removed at a time: on an object store each is a request, and whoever removes them is about to end."""


def ask_to_stop(home: Path, run: str) -> None:
    """Mark `run` as asked to stop.

    Raises
    ------
    NetworkError, ResourceError
        If a remote home cannot be written.
    OSError
        If a local one cannot.
    """
    write_shared(home, _name(run), dump_json({"format": 1, "run": run, "asked": now()}))


def is_asked_to_stop(home: Path, run: str) -> bool:
    """Say whether `run` was asked to stop.

    Raises
    ------
    NetworkError, ResourceError
        If a remote home cannot be asked.
    """
    return read_shared(home, _name(run)) is not None


def forget_stops(home: Path, older_than_s: float = KEPT_SECONDS) -> int:
    """Remove marks older than `older_than_s` seconds, `MOST_FORGOTTEN` at most; return how many were found.

    One that another process removes meanwhile is no error.

    Raises
    ------
    NetworkError, ResourceError
        If a remote home cannot be asked.
    """
    address, limit = remote_address(home), time.time() - older_than_s
    if address is not None:
        from dihal_core.remote.home import remote_home

        objects = remote_home(address).objects
        old = [name for name, found in objects.listing(STOPS).items() if found.modified < limit][:MOST_FORGOTTEN]
        objects.remove(old)
        return len(old)
    gone = 0
    for path in (home / STOPS).glob("*.json"):
        with contextlib.suppress(FileNotFoundError):
            if gone < MOST_FORGOTTEN and path.stat().st_mtime < limit:
                path.unlink()
                gone += 1
    return gone


def _name(run: str) -> str:
    return f"{STOPS}/{run}.json"
