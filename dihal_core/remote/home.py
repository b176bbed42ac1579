"""Stores of a remote home: look, publish, fetch, withdraw.

A store lies in `<stage>/<key>/v-<hash of its manifest>/`, laid out as on a disk, and counts from the moment
`<stage>/<key>/manifest.json` is put: the manifest, the folder's name, and the checksum the storage gave each
object. Two makers of one key write into folders of their own, so no manifest ever names files of another
attempt; the first manifest stays. Reading a store lists nothing but the objects of its own folder.
"""

import contextlib
import functools
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from dihal_core.errors import ArtifactError
from dihal_core.files import MANIFEST, dump_json, require_disk, write_atomically
from dihal_core.inspection import StoreStatus, require_format
from dihal_core.remote.address import is_inside
from dihal_core.remote.checksums import sha256_of
from dihal_core.remote.failures import brief, is_brief, is_lost
from dihal_core.remote.objects import Found, Objects
from dihal_core.remote.transfers import move
from dihal_core.store import StageRecord, store_lock

SECTION = "remote"
"""Key under which the committed manifest holds what only a remote home needs."""
TRUSTED_SECONDS = 120.0
"""A store found complete is not looked at again for this long."""


def _bytes(item: tuple[str, dict[str, Any]]) -> int:
    return int(item[1]["bytes"])


class RemoteHome:
    """All stores under one address."""

    def __init__(self, address: str):
        self.address = address
        self.objects = Objects(address)
        self._trusted: dict[tuple[str, str], tuple[float, StoreStatus]] = {}
        self._manifests: dict[tuple[str, str], dict[str, Any]] = {}

    def uri(self, stage: str, key: str) -> str:
        """Return the address of a store, valid on every machine."""
        return f"{self.address}/{stage}/{key}"

    def check(self) -> None:
        """Write the home's marker, so that a wrong bucket or missing permission shows before work is spent.

        Raises
        ------
        ResourceError, NetworkError, ConfigError
            In a sentence, with the next step.
        """
        self.objects.write("dihal-home.json", dump_json({"format": 1, "layout": "<stage>/<key>/manifest.json"}))

    def inspect(self, stage: str, key: str, fresh: bool = False) -> StoreStatus:
        """Say whether a store is complete: its manifest, and size and checksum of every object it names.

        Raises
        ------
        ArtifactError
            If the store is of a newer format: it is neither read nor replaced.
        """
        when, status = self._trusted.get((stage, key), (-TRUSTED_SECONDS, None))
        if status is not None and not fresh and time.monotonic() - when < TRUSTED_SECONDS:
            return status
        status = self._inspect(stage, key)
        if status.state == "intact":
            self._trusted[stage, key] = (time.monotonic(), status)
        return status

    def _inspect(self, stage: str, key: str) -> StoreStatus:
        data = self.objects.read(f"{stage}/{key}/{MANIFEST}")
        if data is None:
            return StoreStatus("absent", f"never made under {self.address} with these settings, inputs and code")
        try:
            manifest = json.loads(data)
            require_format(manifest, self.uri(stage, key))  # type: ignore[arg-type]  # it is only named
            section = manifest.pop(SECTION)
            record = StageRecord(
                stage, key, self.uri(stage, key), manifest["digest"], manifest["counts"], manifest["unit"]
            )
            files, etags, folder = manifest["files"], section["etags"], str(section["folder"])
            if manifest["stage"] != stage or manifest["key"] != key:
                return StoreStatus("damaged", f"its remote manifest names {manifest['stage']}/{manifest['key']}")
            if not folder.startswith("v-") or not all(map(is_inside, [folder, *files])):
                return StoreStatus("damaged", "its remote manifest names files outside the store")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return StoreStatus("damaged", f"its remote manifest is unreadable ({type(error).__name__}: {error})")
        place = f"{stage}/{key}/{folder}"
        present = self.objects.listing(place)
        for name, facts in files.items():
            found = present.get(f"{place}/{name}")
            if found is None:
                return StoreStatus("damaged", f"{name} is missing under {self.uri(stage, key)}")
            if found.bytes != facts["bytes"]:
                return StoreStatus(
                    "damaged", f"{name} has {found.bytes} bytes, not {facts['bytes']}, under {self.uri(stage, key)}"
                )
            if found.etag != etags.get(name, ""):
                return StoreStatus("damaged", f"{name} was changed under {self.uri(stage, key)} after it was written")
        reason = f"complete under {self.address}; fetched when needed"
        return StoreStatus("intact", reason, record, {**manifest, SECTION: section})

    def forget(self, stage: str, key: str) -> None:
        """Look again at the next question."""
        self._trusted.pop((stage, key), None)
        self._manifests.pop((stage, key), None)

    def publish(self, home: Path, stage: str, key: str) -> StoreStatus:
        """Upload a finished local store, manifest last; an intact one that is there already stays.

        Returns the status of what is there afterwards: its digest may be another machine's.
        """
        there = self.inspect(stage, key, fresh=True)
        if there.state == "intact":
            return there
        source = home / stage / key
        data = (source / MANIFEST).read_bytes()
        manifest = json.loads(data)
        folder = f"v-{hashlib.sha256(data).hexdigest()[:16]}"
        place = f"{stage}/{key}/{folder}"
        present = self.objects.listing(place)

        def send(item: tuple[str, dict[str, Any]]) -> tuple[str, str]:
            name, facts = item
            target, path = f"{place}/{name}", source / name
            found: Found | None = present.get(target)
            if found is None or not found.etag or not self.objects.holds(target, found, path, facts["sha256"]):
                found = self.objects.upload(path, target, facts["sha256"])
            return name, found.etag

        etags = dict(move(f"upload {stage}/{key}", manifest["files"].items(), _bytes, send))
        self.objects.write(f"{place}/{MANIFEST}", data)
        committed = dump_json({**manifest, SECTION: {"folder": folder, "etags": etags}})
        self.forget(stage, key)
        if there.state == "damaged":
            replaced = self.committed_folder(stage, key)
            self.objects.write(f"{stage}/{key}/{MANIFEST}", committed)
            if replaced not in (None, folder):
                self.objects.remove(self.objects.listing(f"{stage}/{key}/{replaced}"))
        elif not self.objects.create(f"{stage}/{key}/{MANIFEST}", committed):
            first = self.inspect(stage, key, fresh=True)
            if first.state == "intact":
                if first.manifest is not None and first.manifest[SECTION]["folder"] != folder:
                    self.objects.remove(self.objects.listing(place))
                return first
            self.objects.write(f"{stage}/{key}/{MANIFEST}", committed)
        return self.inspect(stage, key, fresh=True)

    def fetch(self, home: Path, stage: str, key: str) -> Path:
        """Bring a store into the working copy `home`, every file checked; return its folder.

        Raises
        ------
        ArtifactError
            If it is not there, or an object does not have the SHA-256 of the manifest: the store is then
            withdrawn, so that the next run makes it again.
        ResourceError, NetworkError
            If there is no room or no connection.
        """
        final = home / stage / key
        with store_lock(home, stage, f"{key}.fetch"):
            if final.is_dir():
                return final
            status = self.inspect(stage, key)
            if status.manifest is None:
                raise ArtifactError(
                    f"store {self.uri(stage, key)} is {status.state} ({status.reason}); run the study again, it "
                    f"recomputes stage {stage!r}"
                )
            manifest = dict(status.manifest)
            place = f"{stage}/{key}/{manifest.pop(SECTION)['folder']}"
            partial = home / stage / f"{key}.fetching"
            self._download(partial, place, manifest["files"], stage, key)
            write_atomically(partial / MANIFEST, dump_json(manifest))
            os.rename(partial, final)
        return final

    def _download(self, partial: Path, place: str, files: dict[str, dict[str, Any]], stage: str, key: str) -> None:
        partial.mkdir(parents=True, exist_ok=True)
        for stale in partial.rglob("*"):
            if stale.is_file() and stale.relative_to(partial).as_posix() not in files:
                stale.unlink()
        size = sum(facts["bytes"] for facts in files.values())
        require_disk(partial, size, f"a copy of {self.uri(stage, key)}")

        def get(item: tuple[str, dict[str, Any]]) -> str | None:
            name, facts = item
            path = partial / name
            if path.is_file() and path.stat().st_size == facts["bytes"] and sha256_of(path) == facts["sha256"]:
                return None  # an earlier, interrupted fetch brought it
            return None if self.objects.download(f"{place}/{name}", path, facts["sha256"]) else name

        damaged = [name for name in move(f"fetch {stage}/{key}", files.items(), _bytes, get) if name is not None]
        if damaged:
            self.withdraw(stage, key)
            raise ArtifactError(
                f"{damaged[0]} of store {self.uri(stage, key)} is missing or does not have the SHA-256 of its manifest; "
                f"the store was withdrawn: run the study again, it recomputes stage {stage!r}"
            )

    def withdraw(self, stage: str, key: str) -> None:
        """Take a store away: its manifest first, then the objects it names (never another attempt's)."""
        self.forget(stage, key)
        folder = self.committed_folder(stage, key)
        self.objects.remove([f"{stage}/{key}/{MANIFEST}"])
        if folder is not None:
            self.objects.remove(self.objects.listing(f"{stage}/{key}/{folder}"))

    def is_there(self, stage: str, key: str) -> bool:
        """Say whether a manifest is there, without looking at the objects it names."""
        return (stage, key) in self._trusted or self.objects.stat(f"{stage}/{key}/{MANIFEST}") is not None

    def committed_folder(self, stage: str, key: str) -> str | None:
        """Return the name of the folder the manifest of a store points to, None without a readable manifest."""
        try:
            folder = str(json.loads(self.objects.read(f"{stage}/{key}/{MANIFEST}") or b"")[SECTION]["folder"])
        except (ValueError, KeyError, TypeError):
            return None
        return folder if folder.startswith("v-") and is_inside(folder) else None

    def manifests(self, stage: str) -> dict[str, dict[str, Any]]:
        """Return `{key: manifest}` of every readable store of a stage."""
        found = {}
        for key in self.objects.folders(stage):
            if (stage, key) not in self._manifests:
                try:
                    manifest = json.loads(self.objects.read(f"{stage}/{key}/{MANIFEST}") or b"")
                    del manifest[SECTION]
                except (ValueError, KeyError, TypeError):
                    continue
                self._manifests[stage, key] = manifest
            found[key] = self._manifests[stage, key]
        return found


@functools.cache
def _remote_home(address: str, _process: int, in_brief: bool) -> RemoteHome:
    with brief() if in_brief else contextlib.nullcontext():
        return RemoteHome(address)


def remote_home(address: str) -> RemoteHome:
    """Return the home under `address`, one object per process (connections do not survive a fork) and patience.

    A storage that gave no answer a moment ago is asked briefly.
    """
    return _remote_home(address, os.getpid(), is_brief() or is_lost(address))
