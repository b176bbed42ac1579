"""The folder of a study on a remote home: readable names, and an index with every file's SHA-256, put last."""

import json
import logging
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dihal_core.errors import NetworkError
from dihal_core.files import dump_json
from dihal_core.remote.address import is_inside
from dihal_core.remote.checksums import sha256_of
from dihal_core.remote.home import RemoteHome, remote_home
from dihal_core.remote.transfers import move

log = logging.getLogger(__name__)

INDEX = "published.json"
STUDIES = "studies"
RUNS = "runs"
"""Folder of a study that is not in its index: the journals of its runs (`remote.journals`)."""
LAST = "study.json"
"""Result file: it is brought last, so that a study whose result is there is whole."""
ATTEMPTS = 3


def push(address: str, home: Path, name: str) -> str:
    """Upload a study's folder and return its address.

    Raises
    ------
    ResourceError, NetworkError
        If it cannot be uploaded; the folder on this machine is kept.
    """
    remote = remote_home(address)
    folder, place = home / STUDIES / name, f"{STUDIES}/{name}"
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".tmp"]
    paths = [path for path in paths if path.relative_to(folder).parts[0] != RUNS]
    files = {
        path.relative_to(folder).as_posix(): {
            "sha256": sha256_of(path),
            "bytes": path.stat().st_size,
            "mtime": path.stat().st_mtime,
        }
        for path in paths
        if path.name != INDEX
    }
    earlier = _index(remote, name)
    changed = [item for item in files if earlier.get(item, {}).get("sha256") != files[item]["sha256"]]
    move(
        f"upload {place}",
        changed,
        lambda item: files[item]["bytes"],
        lambda item: remote.objects.upload(folder / item, f"{place}/{item}", files[item]["sha256"]),
    )
    remote.objects.write(f"{place}/{INDEX}", dump_json({"format": 1, "files": files}))
    gone = sorted(item for item in set(earlier) - set(files) if not item.startswith(f"{RUNS}/"))
    remote.objects.remove(f"{place}/{item}" for item in gone)
    return f"{address}/{place}"


def _index(remote: RemoteHome, name: str) -> dict[str, dict[str, Any]]:
    try:
        files = json.loads(remote.objects.read(f"{STUDIES}/{name}/{INDEX}") or b"null")["files"]
    except (ValueError, KeyError, TypeError):
        return {}
    return files if isinstance(files, dict) else {}


def pull(address: str, home: Path, name: str, only: Collection[str] = ()) -> bool:
    """Bring a study's folder, or `only` these files of it, up to date with the remote one; False if there is none.

    Raises
    ------
    NetworkError
        If it keeps changing or is damaged.
    """
    remote = remote_home(address)
    folder, place = home / STUDIES / name, f"{STUDIES}/{name}"
    wrong = ""
    for attempt in range(ATTEMPTS):
        files = _index(remote, name)
        if not files:
            return False
        wrong = ""
        for item in sorted(files, key=lambda item: (item == LAST, item)):
            if item.startswith(f"{RUNS}/") or (only and item not in only):
                continue
            path = folder / item
            if path.is_file() and sha256_of(path) == files[item]["sha256"]:
                continue
            if not is_inside(item) or not remote.objects.download(f"{place}/{item}", path, files[item]["sha256"]):
                wrong = item
                break
            os.utime(path, (files[item]["mtime"], files[item]["mtime"]))
        if not wrong:
            return True
        time.sleep(attempt)
    raise NetworkError(
        f"{wrong} of study {name} under {address} does not match the study's index: it is being published at this "
        "moment or was damaged; try again, or run the study again (its stages are cached)"
    )


def pull_all(address: str, home: Path, only: Collection[str] = ()) -> None:
    """Bring every study's folder, or `only` these files of each; without a connection the ones on this machine are used, with a warning."""
    remote = remote_home(address)
    try:
        for name in remote.objects.folders(STUDIES):
            pull(address, home, name, only)
    except NetworkError as error:
        log.warning("%s; using the studies on this machine", error)
