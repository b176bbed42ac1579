"""Stores: one folder per stage and key, complete or not there.

A stage writes into `<home>/<stage>/<key>.partial`, commits units as they are done, writes
`manifest.json` last and renames the folder to `<key>`. Whatever instant the process dies at, a
folder without `.partial` is complete, and a resume finds the committed units. A store is trusted
only after its files were compared with the digests in its manifest.
"""

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from dihal_core.errors import ArtifactError, ResourceError

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STORE_FORMAT = 1
"""Layout of stores and manifests that this version writes and reads; raise it with a change that old code misreads."""
FULL_HASH_LIMIT_BYTES = 64 * 2**30
"""Stores up to this size are re-hashed before each use; larger ones are checked by size, and chunk by
chunk through their crc32c when read."""


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """What one stage hands to the next: a reference and counts, never tensors."""

    stage: str
    key: str
    uri: str
    digest: str
    counts: dict[str, Any] = dataclasses.field(default_factory=dict)
    unit: str | int | None = None

    @property
    def path(self) -> Path:
        """Folder of the store; one of a remote home is fetched if it is not on this machine."""
        if "://" not in self.uri:
            return Path(self.uri)
        from dihal_core.remote.copies import located

        return located(self)

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict that JSON and Prefect carry."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "StageRecord":
        """Inverse of `to_json`."""
        return cls(**data)


@dataclasses.dataclass(frozen=True)
class StoreStatus:
    """What was found under one key. `reason` is a sentence for people."""

    state: Literal["intact", "partial", "damaged", "absent", "unpublished"]
    reason: str
    record: StageRecord | None = None
    manifest: dict[str, Any] | None = None


def resolve_home(home: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that holds all stores: the argument, `$DIHAL_HOME`, or `./runs`.

    For an fsspec URL (`s3://bucket/prefix`) it is the working copy on this machine.

    Raises
    ------
    ConfigError
        For a URL that carries credentials or options, or names no bucket or folder.
    """
    value = str(home or os.environ.get("DIHAL_HOME") or "runs")
    if "://" in value:
        from dihal_core.remote.address import working_copy

        return working_copy(value)
    return Path(value).expanduser().resolve()


def write_atomically(path: Path, data: bytes, durable: bool = True) -> None:
    """Write `data` under a temporary name, flush it to disk (if `durable`), rename."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(temporary, "wb") as handle:
        handle.write(data)
        if durable:
            handle.flush()
            os.fsync(handle.fileno())
    os.replace(temporary, path)


def dump_json(value: Any) -> bytes:
    """Return sorted, indented JSON; NaN and inf are refused so that no reader meets them."""
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def require_disk(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Raise `ResourceError` unless `needed_bytes` fit into 90 % of the free space of `folder`'s disk."""
    probe = folder
    while not probe.exists():
        probe = probe.parent
    free = shutil.disk_usage(probe).free
    if needed_bytes > 0.9 * free:
        raise ResourceError(
            f"{purpose} needs {needed_bytes / 1e9:.2f} GB but {probe} has {free / 1e9:.2f} GB free "
            "(10 % is kept in reserve); free some space, set DIHAL_HOME to a larger disk, or lower "
            "activations.num_sequences / activations.whole_sequences"
        )


def full_disk(error: OSError, folder: Path, label: str) -> ResourceError | None:
    """Return the sentence for an error of a disk, quota or file size limit that is used up; None for any other."""
    if error.errno not in (errno.EFBIG, errno.ENOSPC, errno.EDQUOT):
        return None
    return ResourceError(
        f"{label}: the disk under {folder} is full ({error}); free some space and run the same "
        "command again, finished units are kept"
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _data_files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST and path.suffix != ".tmp"
    )


def hash_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return `{relative path: {"sha256", "bytes"}}` of every data file, manifest excluded."""
    files = _data_files(folder)
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        digests = list(pool.map(_sha256, files))
    return {
        path.relative_to(folder).as_posix(): {"sha256": digest, "bytes": path.stat().st_size}
        for path, digest in zip(files, digests, strict=True)
    }


def store_digest(files: dict[str, dict[str, Any]]) -> str:
    """Return the SHA-256 over sorted (relative path, SHA-256); times and hosts are no part of it.

    Commit records are left out too: they carry wall times.
    """
    total = hashlib.sha256()
    for name in sorted(files):
        if not name.startswith("commits/"):
            total.update(f"{name}\0{files[name]['sha256']}\n".encode())
    return total.hexdigest()


def inspect_store(home: Path, stage: str, key: str, full: bool = False) -> StoreStatus:
    """Say whether the store of `stage` under `key` can be trusted, re-hashing its files.

    Stores above `FULL_HASH_LIMIT_BYTES` are compared by file sizes unless `full`. Of a remote home the
    remote store is looked at (size and checksum of every object), and the copy on this machine if there is one.

    Raises
    ------
    ArtifactError
        If the store is of a newer format: it is neither read nor replaced.
    """
    from dihal_core.remote.address import remote_address

    address = remote_address(home)
    if address is None:
        return inspect_folder(home, stage, key, full)
    from dihal_core.remote import copies

    return copies.inspect(address, home, stage, key, full)


def inspect_folder(home: Path, stage: str, key: str, full: bool = False) -> StoreStatus:
    """Say whether the store in the folder `<home>/<stage>/<key>` can be trusted (see `inspect_store`)."""
    folder = home / stage / key
    if not folder.exists():
        if folder.with_name(f"{key}.partial").exists():
            return StoreStatus("partial", "an earlier run was interrupted; its committed units are kept")
        return StoreStatus("absent", "never made with these settings, inputs and code")
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        require_format(manifest, folder)
        record = StageRecord(stage, key, str(folder), manifest["digest"], manifest["counts"], manifest["unit"])
        expected: dict[str, dict[str, Any]] = manifest["files"]
        if manifest["stage"] != stage or manifest["key"] != key:
            return StoreStatus("damaged", f"manifest names {manifest['stage']}/{manifest['key']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return StoreStatus("damaged", f"manifest unreadable ({type(error).__name__}: {error})")
    present = {path.relative_to(folder).as_posix(): path for path in _data_files(folder)}
    for name, facts in expected.items():
        if name not in present:
            return StoreStatus("damaged", f"{name} is missing")
        if present[name].stat().st_size != facts["bytes"]:
            return StoreStatus("damaged", f"{name} has {present[name].stat().st_size} bytes, not {facts['bytes']}")
    extra = sorted(set(present) - set(expected))
    if extra:
        return StoreStatus("damaged", f"{extra[0]} does not belong to it")
    if full or sum(facts["bytes"] for facts in expected.values()) <= FULL_HASH_LIMIT_BYTES:
        try:
            found = hash_files(folder)
        except OSError as error:
            return StoreStatus("damaged", f"unreadable ({error})")
        for name, facts in expected.items():
            if found[name]["sha256"] != facts["sha256"]:
                return StoreStatus("damaged", f"{name} was changed after it was written")
        if store_digest(found) != manifest["digest"]:
            return StoreStatus("damaged", "manifest digest does not match its file list")
    return StoreStatus("intact", "complete; every file matches its digest", record, manifest)


def require_format(manifest: dict[str, Any], folder: Path) -> None:
    """Refuse a store that a newer version wrote; one that names no format at all is damaged.

    Raises
    ------
    ArtifactError
        With both formats and what to do.
    KeyError, TypeError
        If the manifest holds no format.
    """
    if int(manifest["format"]) > STORE_FORMAT:
        raise ArtifactError(
            f"store {folder} has format {manifest['format']}, made by a newer version of DiHAL Studio; this one reads "
            f"format {STORE_FORMAT}: install the newer version, or keep its stores apart with another DIHAL_HOME"
        )


class StageStore:
    """Writer of one store, under `store_lock`; read finished stores through `StageRecord.path`.

    Parameters
    ----------
    home, stage, key
        What the store is called.
    join
        Another process is at work on the store too: leave temporary files alone, they may be its.

    Raises
    ------
    ArtifactError
        If the store is finished: finished stores are never written again.
    """

    def __init__(self, home: Path, stage: str, key: str, join: bool = False):
        self.home, self.stage, self.key = home, stage, key
        self.final = home / stage / key
        if self.final.exists():
            raise ArtifactError(
                f"store {self.final} is finished and immutable; read it through its record, or remove it "
                "(`dihal study --force` makes a stage again)"
            )
        self.path = home / stage / f"{key}.partial"
        """Folder to write data files into. Write each under a temporary name ending in `.tmp`, then rename."""
        self.started = time.time()
        self.path.mkdir(parents=True, exist_ok=True)
        if not join:
            for leftover in self.path.rglob("*.tmp"):
                leftover.unlink()

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Write one data file atomically and return its path."""
        write_atomically(self.path / name, data)
        return self.path / name

    def write_json(self, name: str, value: Any) -> Path:
        """Write one JSON data file atomically."""
        return self.write_bytes(name, dump_json(value))

    def commit(self, unit: str, payload: dict[str, Any], durable: bool = True) -> None:
        """Record that `unit` is complete, after its data files were written.

        Without `durable` a killed process loses nothing, but a power cut may lose the record; use it for
        records that hold their result themselves and are made again cheaply.
        """
        write_atomically(self.path / "commits" / f"{unit}.json", dump_json(payload), durable)

    def has(self, unit: str) -> bool:
        """Say whether `unit` is committed."""
        return (self.path / "commits" / f"{unit}.json").is_file()

    def withdraw(self, unit: str) -> None:
        """Take the commit record of `unit` back: its data was found damaged and is made again."""
        (self.path / "commits" / f"{unit}.json").unlink(missing_ok=True)

    def committed(self) -> dict[str, dict[str, Any]]:
        """Return `{unit: payload}` of all complete units of this and earlier attempts.

        An unreadable record is no record: its unit is made again.
        """
        found = {}
        for path in sorted((self.path / "commits").glob("*.json")):
            try:
                payload = json.loads(path.read_bytes())
                if not isinstance(payload, dict):
                    raise ValueError("not an object")
                found[path.stem] = payload
            except FileNotFoundError:
                continue  # withdrawn by another process
            except ValueError:
                log.warning("commit record %s is unreadable; its unit is made again", path)
                path.unlink(missing_ok=True)
        return found

    def committed_unit(self, unit: str) -> dict[str, Any]:
        """Return the payload of `unit`, empty if it is not committed."""
        try:
            payload = json.loads((self.path / "commits" / f"{unit}.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return payload if isinstance(payload, dict) else {}

    def finalize(self, counts: dict[str, Any], provenance: dict[str, Any], unit: str | int | None) -> StageRecord:
        """Hash every file, write the manifest, rename. Afterwards the store is immutable."""
        files = hash_files(self.path)
        digest = store_digest(files)
        manifest = {
            "format": STORE_FORMAT,
            "stage": self.stage,
            "key": self.key,
            "unit": unit,
            "digest": digest,
            "counts": counts,
            "files": files,
            "bytes": sum(facts["bytes"] for facts in files.values()),
            "provenance": {
                **provenance,
                "host": platform.node(),
                "platform": platform.platform(),
                "python": platform.python_version(),
                "started": datetime.datetime.fromtimestamp(self.started, datetime.UTC).isoformat(),
                "finished": datetime.datetime.now(datetime.UTC).isoformat(),
                "wall_seconds": round(time.time() - self.started, 3),
            },
        }
        write_atomically(self.path / MANIFEST, dump_json(manifest))
        os.rename(self.path, self.final)
        return StageRecord(self.stage, self.key, str(self.final), digest, counts, unit)


def discard_store(home: Path, stage: str, key: str) -> None:
    """Remove a damaged store; its name is freed by one rename before anything is deleted."""
    from dihal_core.remote.address import remote_address

    address = remote_address(home)
    if address is not None:
        from dihal_core.remote import copies

        copies.discard(address, home, stage, key)
        return
    folder = home / stage / key
    doomed = folder.with_name(f"{key}.damaged-{time.time_ns()}")
    os.rename(folder, doomed)
    for leftover in folder.parent.glob(f"{key}.damaged-*"):
        shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def store_lock(home: Path, stage: str, key: str) -> Iterator[None]:
    """Let one process at a time make a store. The lock dies with its holder, also on kill -9."""
    folder = home / stage
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / f".{key}.lock", "w")  # noqa: SIM115
    except OSError as error:
        raise ResourceError(f"cannot write under {folder} ({error}); check DIHAL_HOME and its permissions") from error
    with handle:
        waited = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    log.info("%s/%s is being made by another process; waiting for it", stage, key)
                    waited = True
                time.sleep(0.5)
        yield


def read_json(record: StageRecord, name: str) -> Any:
    """Return a JSON result of a finished store.

    Raises
    ------
    ArtifactError
        If it is missing or unreadable.
    """
    try:
        return json.loads((record.path / name).read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{record.stage} store {record.uri} has no readable {name} ({type(error).__name__}: {error}); "
            f"run the study again, it recomputes stage {record.stage!r}"
        ) from error


def require_intact(record: StageRecord) -> StageRecord:
    """Return `record` if its store is intact, else raise `ArtifactError` naming the stage to run again."""
    status = inspect_store(record.path.parent.parent, record.stage, record.key)
    if status.record is None or status.record.digest != record.digest:
        raise ArtifactError(
            f"store {record.uri} is {status.state} ({status.reason}), expected digest {record.digest[:12]}; "
            f"run the study again, it recomputes stage {record.stage!r}"
        )
    return record
