"""Unfinished stores of a remote home: snapshots that let another machine go on where this one died.

A snapshot is a set of objects named by their SHA-256 and an index, put last. Commit records are read before
the data files are, so every unit the index calls complete has its files in it; a snapshot that does not
fetch whole is not used.
"""

import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dihal_core.errors import ArtifactError, DihalError
from dihal_core.files import dump_json
from dihal_core.remote.address import is_inside
from dihal_core.remote.checksums import sha256_of
from dihal_core.remote.home import RemoteHome, remote_home

log = logging.getLogger(__name__)

INDEX = "index.json"
COMMITS = "commits"


def _place(stage: str, key: str) -> str:
    return f"{stage}/{key}.partial"


def _commit_count(names: Iterator[str]) -> int:
    return sum(name.startswith(f"{COMMITS}/") for name in names)


class Snapshots:
    """Upload the partial folder of a store every `every_s` seconds while a block runs, and when it fails."""

    def __init__(self, remote: RemoteHome, home: Path, stage: str, key: str, every_s: float):
        self._address, self._stage, self._key, self._every_s = remote.address, stage, key, every_s
        self._folder = home / stage / f"{key}.partial"
        self._known: dict[str, tuple[int, int, str]] = {}
        self._sent: set[str] = set()
        self._last: bytes = b""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)

    @property
    def _remote(self) -> RemoteHome:
        return remote_home(self._address)  # as patient as the storage deserves at this moment

    def save(self) -> int:
        """Upload what changed since the last snapshot, then its index; return the number of files it names."""
        commits = {path.name: path.read_bytes() for path in sorted((self._folder / COMMITS).glob("*.json"))}
        files: dict[str, dict[str, Any]] = {}
        for path in sorted(self._folder.rglob("*")):
            name = path.relative_to(self._folder).as_posix()
            if path.is_file() and path.suffix != ".tmp" and not name.startswith(f"{COMMITS}/"):
                entry = self._send(path, name)
                if entry is not None:
                    files[name] = entry
        for name, data in commits.items():
            digest = hashlib.sha256(data).hexdigest()
            self._put(digest, data)
            files[f"{COMMITS}/{name}"] = {"sha256": digest, "bytes": len(data)}
        index = dump_json({"format": 1, "files": files})
        if files and index != self._last:
            self._remote.objects.write(f"{_place(self._stage, self._key)}/{INDEX}", index)
            self._last = index
            stale = self._sent - {facts["sha256"] for facts in files.values()}
            self._remote.objects.remove(f"{_place(self._stage, self._key)}/{digest}" for digest in sorted(stale))
            self._sent -= stale
        return len(files)

    def _send(self, path: Path, name: str) -> dict[str, Any] | None:
        """Upload one data file as it is now; None if it vanished meanwhile."""
        try:
            facts = path.stat()
            size, mtime, digest = self._known.get(name, (-1, -1, ""))
            if (size, mtime) == (facts.st_size, facts.st_mtime_ns):
                return {"sha256": digest, "bytes": size}
            finished = not facts.st_mode & 0o222
            copy = path if finished else path.with_name(f"{path.name}.snapshot.tmp")
            if not finished:
                shutil.copyfile(path, copy)  # a file that grows would not match its own checksum
        except FileNotFoundError:
            return None
        try:
            digest, size = sha256_of(copy), copy.stat().st_size
            if digest not in self._sent:
                self._remote.objects.upload(copy, f"{_place(self._stage, self._key)}/{digest}", digest)
                self._sent.add(digest)
        except FileNotFoundError:
            return None
        finally:
            if not finished:
                copy.unlink(missing_ok=True)
        self._known[name] = (facts.st_size, facts.st_mtime_ns, digest)
        return {"sha256": digest, "bytes": size}

    def _put(self, digest: str, data: bytes) -> None:
        if digest not in self._sent:
            self._remote.objects.write(f"{_place(self._stage, self._key)}/{digest}", data)
            self._sent.add(digest)

    def _try(self) -> None:
        try:
            self.save()
        except (DihalError, OSError) as error:
            log.warning("unfinished units of %s/%s are not uploaded (%s)", self._stage, self._key, error)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._try()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is not None and not isinstance(error, ArtifactError) and self._folder.is_dir():
            self._try()


@contextmanager
def resumable(address: str, home: Path, stage: str, key: str, every_s: float) -> Iterator[None]:
    """Start from the furthest snapshot and keep taking them while the block runs."""
    remote = remote_home(address)
    restore(remote, home, stage, key)
    (home / stage / f"{key}.partial").mkdir(parents=True, exist_ok=True)
    with Snapshots(remote, home, stage, key, every_s):
        yield


def restore(remote: RemoteHome, home: Path, stage: str, key: str) -> bool:
    """Fetch the snapshot of an unfinished store if it is further than what is here; say whether it was."""
    place, folder = _place(stage, key), home / stage / f"{key}.partial"
    try:
        files = _index(remote, place)
    except (ValueError, KeyError, TypeError):
        return False
    if folder.is_dir() and _commit_count(iter(files)) <= len(list((folder / COMMITS).glob("*.json"))):
        return False
    coming = home / stage / f"{key}.restoring"
    shutil.rmtree(coming, ignore_errors=True)
    for name, facts in files.items():
        if not is_inside(name) or not remote.objects.download(
            f"{place}/{facts['sha256']}", coming / name, facts["sha256"]
        ):
            log.warning("the snapshot of %s/%s is not whole (%s); it is not used", stage, key, name)
            shutil.rmtree(coming, ignore_errors=True)
            return False
    if folder.is_dir():
        behind = folder.with_name(f"{key}.behind-{time.time_ns()}")
        os.rename(folder, behind)
        shutil.rmtree(behind, ignore_errors=True)
    os.rename(coming, folder)
    log.info("%s/%s goes on from a snapshot with %d committed units", stage, key, _commit_count(iter(files)))
    return True


def committed(address: str, stage: str, key: str) -> int | None:
    """Return how many committed units the snapshot of an unfinished store holds, None if there is no snapshot."""
    try:
        return _commit_count(iter(_index(remote_home(address), _place(stage, key))))
    except (ValueError, KeyError, TypeError):
        return None


def _index(remote: RemoteHome, place: str) -> dict[str, dict[str, Any]]:
    return json.loads(remote.objects.read(f"{place}/{INDEX}") or b"null")["files"]


def forget(address: str, stage: str, key: str) -> None:
    """Remove the snapshots of a store: it is finished, or what was made is of no use. Index first."""
    objects = remote_home(address).objects
    objects.remove([f"{_place(stage, key)}/{INDEX}"])
    objects.remove(objects.listing(_place(stage, key)))
