"""Reading and writing objects under one address: every upload is compared, every failure explained."""

import dataclasses
import datetime
import errno
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dihal_core.errors import NetworkError
from dihal_core.remote.checksums import expected_etag, part_bytes, sha256_of
from dihal_core.remote.failures import explained, filesystem, insist

ATOMIC_PUT = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "memory"})
"""Protocols whose PUT appears whole or not at all; the others write a temporary name and rename it."""
CONDITIONAL_PUT = frozenset({"s3", "s3a", "memory"})
"""Protocols whose PUT can be refused where an object exists already."""
TEMPORARY = ".tmp"


@dataclasses.dataclass(frozen=True)
class Found:
    """What a storage says of an object. `etag` is empty where it gives none; `modified` is seconds since 1970."""

    bytes: int
    etag: str
    modified: float = 0.0


def _found(info: dict[str, Any]) -> Found:
    moment = info.get("LastModified") or info.get("mtime") or info.get("created") or 0.0
    seconds = moment.timestamp() if isinstance(moment, datetime.datetime) else float(moment)
    return Found(int(info.get("size") or 0), str(info.get("ETag") or "").strip('"'), seconds)


class Objects:
    """Objects under `address`, named by relative paths with slashes."""

    def __init__(self, address: str):
        self.address = address
        self.protocol = address.split("://", 1)[0]
        self._fs, self._root = filesystem(address)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def read(self, name: str) -> bytes | None:
        """Return an object's bytes, None if there is none."""
        try:
            return insist(self.address, f"reading {name}", lambda: self._fs.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Put an object, whole or not at all, and read it back.

        Raises
        ------
        ResourceError
            If the bucket does not exist or permission is denied.
        NetworkError
            If it cannot be written, or does not read back.
        """
        try:
            insist(self.address, f"writing {name}", lambda: self._put(name, data))
        except FileNotFoundError as error:
            raise explained(self.address, f"writing {name}", error) from error
        if self.read(name) != data:
            raise NetworkError(
                f"{self.address}: {name} does not read back as it was written; run the same command again"
            )

    def _put(self, name: str, data: bytes) -> None:
        if self.protocol in ATOMIC_PUT:
            self._fs.pipe_file(self._path(name), data)
            return
        temporary = self._prepare(name)
        self._fs.pipe_file(temporary, data)
        self._fs.mv(temporary, self._path(name))

    def _prepare(self, name: str) -> str:
        """Make the folder of `name` and return a temporary name beside it."""
        path = self._path(name)
        self._fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        return f"{path}.{os.getpid()}{TEMPORARY}"

    def create(self, name: str, data: bytes) -> bool:
        """Put an object unless one is there; say whether it was put.

        Where the storage cannot refuse, two writers may both be told yes; the later one stays.
        """
        if self.read(name) is not None:
            return False
        if self.protocol in CONDITIONAL_PUT:
            try:
                insist(self.address, f"writing {name}", lambda: self._put_new(name, data))
            except FileExistsError:
                return self.read(name) == data  # an attempt whose answer was lost may have put it
            except FileNotFoundError as error:
                raise explained(self.address, f"writing {name}", error) from error
            return True
        self.write(name, data)
        return True

    def _put_new(self, name: str, data: bytes) -> None:
        try:
            self._fs.pipe_file(self._path(name), data, mode="create")
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            self._put(name, data)  # an older server that knows no conditional PUT

    def upload(self, path: Path, name: str, sha256: str) -> Found:
        """Put a file (in parts if it is large) and make sure that the object holds its bytes.

        The object's checksum (ETag) is compared where the storage gives one, else it is read back.

        Raises
        ------
        NetworkError
            If it does not arrive whole.
        ResourceError
            If the bucket does not exist or permission is denied.
        """

        def put() -> Found:
            if self.protocol in ("s3", "s3a"):
                self._fs.put_file(str(path), self._path(name), chunksize=part_bytes(path.stat().st_size))
            elif self.protocol in ATOMIC_PUT:
                self._fs.put_file(str(path), self._path(name))
            else:
                temporary = self._prepare(name)
                self._fs.put_file(str(path), temporary)
                self._fs.mv(temporary, self._path(name))
            found = self.stat(name)
            if found is None or not self.holds(name, found, path, sha256):
                raise ConnectionError(f"{name} arrived damaged")
            return found

        try:
            return insist(self.address, f"uploading {name}", put)
        except FileNotFoundError as error:
            raise explained(self.address, f"uploading {name}", error) from error

    def holds(self, name: str, found: Found, path: Path, sha256: str) -> bool:
        """Say whether the object found under `name` has the bytes of the file at `path`."""
        if found.bytes != path.stat().st_size:
            return False
        return (found.etag != "" and found.etag == expected_etag(path)) or self._sha256(name) == sha256

    def _sha256(self, name: str) -> str:
        total = hashlib.sha256()
        with self._fs.open(self._path(name), "rb") as handle:
            while block := handle.read(2**23):
                total.update(block)
        return total.hexdigest()

    def download(self, name: str, path: Path, sha256: str) -> bool:
        """Fetch an object to `path` under a temporary name; False if it is missing or has other bytes, twice."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
        for _ in range(2):
            try:
                insist(self.address, f"fetching {name}", lambda: self._fs.get_file(self._path(name), str(temporary)))
            except FileNotFoundError:
                return False
            if sha256_of(temporary) == sha256:
                os.replace(temporary, path)
                return True
        temporary.unlink(missing_ok=True)
        return False

    def stat(self, name: str) -> Found | None:
        """Return size and ETag of one object, None if there is none."""
        try:
            return _found(insist(self.address, f"looking at {name}", lambda: self._fs.info(self._path(name))))
        except FileNotFoundError:
            return None

    def listing(self, folder: str) -> dict[str, Found]:
        """Return `{name: size and ETag}` of every object under `folder` (names relative to the address)."""

        def find() -> dict[str, Any]:
            return self._fs.find(self._path(folder), detail=True)

        try:
            found = insist(self.address, f"listing {folder}", find)
        except FileNotFoundError:
            return {}
        start = len(self._path("").lstrip("/"))
        return {path.lstrip("/")[start:]: _found(info) for path, info in found.items() if not path.endswith(TEMPORARY)}

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders directly under `folder`."""
        try:
            found = insist(self.address, f"listing {folder}", lambda: self._fs.ls(self._path(folder), detail=True))
        except FileNotFoundError:
            return []
        return sorted(str(item["name"]).rstrip("/").rsplit("/", 1)[-1] for item in found if item["type"] == "directory")

    def remove(self, names: Iterable[str]) -> None:
        """Delete objects; missing ones are no error."""
        for name in names:
            try:
                insist(self.address, f"removing {name}", lambda name=name: self._fs.rm_file(self._path(name)))
            except FileNotFoundError:
                continue
