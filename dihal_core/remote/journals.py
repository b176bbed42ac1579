"""Journals of runs on a remote home: each run puts its own as it goes, whoever asks for the status brings them.

They change while a study runs, so they are no part of what the study's index vouches for.
"""

import json
import logging
from pathlib import Path
from typing import Any

from dihal_core.errors import DihalError, NetworkError
from dihal_core.files import write_atomically
from dihal_core.remote.address import is_inside
from dihal_core.remote.home import remote_home
from dihal_core.remote.studies import RUNS, STUDIES

log = logging.getLogger(__name__)


def push(address: str, home: Path, path: Path) -> None:
    """Put the journal at `path`; a study does not hang on it, so a failure is a warning."""
    name = path.relative_to(home).as_posix()
    try:
        remote_home(address).objects.write(name, path.read_bytes())
    except (DihalError, OSError) as error:
        log.warning("%s is not shared, other machines see an earlier state of this run (%s)", name, error)


def pull(address: str, home: Path) -> str | None:
    """Bring the journals of all machines; return None, or why those on this machine are all there is to go by.

    Raises
    ------
    ResourceError, ConfigError
        If permission is denied, or the address cannot be used at all.
    """
    objects = remote_home(address).objects
    try:
        for study in objects.folders(STUDIES):
            for name in objects.listing(f"{STUDIES}/{study}/{RUNS}"):
                data = objects.read(name) if is_inside(name) else None
                if data is not None and _later(data, home / name):
                    write_atomically(home / name, data, durable=False)
    except NetworkError as error:
        return str(error)
    return None


def _later(there: bytes, here: Path) -> bool:
    """Say whether the journal that was brought tells more than the one on this machine, if there is one."""
    try:
        theirs = _told(there)
    except (ValueError, KeyError, TypeError):
        return False
    try:
        ours = _told(here.read_bytes())
    except (OSError, ValueError, KeyError, TypeError):
        return True
    if theirs["run"] == ours["run"]:  # one run: its own process writes here first, then there
        return theirs["steps"] > ours["steps"]
    return theirs["run"] > ours["run"]


def _told(data: bytes) -> dict[str, Any]:
    """Return what orders two journals: when the run began and on which process, then how often it was written."""
    journal = json.loads(data)
    process = journal["process"]
    return {"run": (journal["started"], process["host"], process["pid"]), "steps": journal["steps"]}
