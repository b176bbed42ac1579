"""Stores: one folder per stage and key, complete or not there.

A stage writes into `<home>/<stage>/<key>.partial`, commits units as they are done, writes
`manifest.json` last and renames the folder to `<key>`. Whatever instant the process dies at, a
folder without `.partial` is complete, and a resume finds the committed units. A store is trusted
only after its files were compared with the digests in its manifest.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dihal_core.errors import ArtifactError, ConfigError, ResourceError
from dihal_core.files import MANIFEST, dump_json, hash_files, store_digest, write_atomically

log = logging.getLogger(__name__)

STORE_FORMAT = 1
"""Layout of stores and manifests that this version writes and reads; raise it with a change that old code misreads."""


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


def resolve_home(home: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that holds all stores: the argument, `$DIHAL_HOME`, or `./runs`.

    For an fsspec URL (`s3://bucket/prefix`) it is the working copy on this machine.

    Raises
    ------
    ConfigError
        For a URL that carries credentials or options, or names no bucket or folder; for one that is given but empty,
        as a deployment's is that was applied without it.
    """
    value = os.environ.get("DIHAL_HOME", "runs") if home is None else str(home)
    if not value.strip():
        raise ConfigError(
            f"{'DIHAL_HOME' if home is None else '--home'} is given but empty, which names no place for stores; give a "
            "folder or s3://bucket/prefix, or leave it out for ./runs. Deployments keep the DIHAL_HOME they were applied "
            "with: apply them again with it set (`DIHAL_HOME=... prefect deploy --all ...`, or `dihal up`)"
        )
    if "://" in value:
        from dihal_core.remote.address import working_copy

        return working_copy(value)
    return Path(value).expanduser().resolve()


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
