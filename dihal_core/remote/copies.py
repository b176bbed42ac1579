"""The working copy and its remote home together: what `dihal_core.store` asks when a home is remote."""

import logging
import os
import shutil
import time
from pathlib import Path

from dihal_core.errors import ArtifactError
from dihal_core.inspection import StoreStatus, inspect_folder
from dihal_core.remote.address import working_copy
from dihal_core.remote.home import remote_home
from dihal_core.store import StageRecord, store_lock

log = logging.getLogger(__name__)

_checked: dict[tuple[str, str], int] = {}
"""Copies this process has compared with their manifests: (folder, digest) and the manifest's mtime."""


def inspect(address: str, home: Path, stage: str, key: str, full: bool) -> StoreStatus:
    """Say whether a store can be trusted: the remote one counts, the local copy saves fetching it.

    A local copy that is damaged, or that differs from an intact remote store, is dropped.
    """
    remote = remote_home(address)
    there = remote.inspect(stage, key)
    here = inspect_folder(home, stage, key, full)
    if there.state == "intact" and there.record is not None:
        if here.record is not None and here.record.digest == there.record.digest:
            return StoreStatus("intact", here.reason, there.record, here.manifest)
        if here.state == "damaged" or here.record is not None:
            log.warning("the copy of %s on this machine is dropped (%s)", remote.uri(stage, key), _why(here))
            drop(home, stage, key)
        return there
    if here.record is not None:
        return StoreStatus("unpublished", f"finished on this machine, not yet under {address}: it is only uploaded")
    if there.state == "damaged":
        return there
    return here if here.state != "absent" else there


def _why(here: StoreStatus) -> str:
    return here.reason if here.state == "damaged" else "it differs from the store that was published first"


def drop(home: Path, stage: str, key: str) -> None:
    """Remove a local copy; its name is freed by one rename. Readers that have its files open keep them."""
    folder = home / stage / key
    doomed = folder.with_name(f"{key}.damaged-{time.time_ns()}")
    try:
        os.rename(folder, doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)


def share(address: str, home: Path, record: StageRecord) -> StageRecord:
    """Publish a finished local store and return its record with an address that is valid everywhere.

    If another machine published the same key with other bytes, that one stays and is returned.
    """
    remote = remote_home(address)
    with store_lock(home, record.stage, record.key):
        there = remote.publish(home, record.stage, record.key)
    if there.record is None:
        raise ArtifactError(
            f"store {remote.uri(record.stage, record.key)} is {there.state} right after it was published "
            f"({there.reason}); run the same command again, it is kept on this machine and only uploaded"
        )
    if there.record.digest != record.digest:
        log.warning(
            "%s holds another result of the same request (digest %s, here %s); the first one stays",
            there.record.uri,
            there.record.digest[:12],
            record.digest[:12],
        )
        drop(home, record.stage, record.key)
    return there.record


def discard(address: str, home: Path, stage: str, key: str) -> None:
    """Remove a store here and there."""
    remote_home(address).withdraw(stage, key)
    drop(home, stage, key)


def split_uri(uri: str) -> tuple[str, str, str]:
    """Return (address of the home, stage, key) of a remote store's URI."""
    address, stage, key = uri.rsplit("/", 2)
    return address, stage, key


def located(record: StageRecord) -> Path:
    """Return the folder of a remote store on this machine, fetched if it is not there or damaged.

    Raises
    ------
    ArtifactError
        If the store is gone, damaged, or no longer has the digest of the record.
    """
    address, stage, key = split_uri(record.uri)
    home = working_copy(address)
    folder = home / stage / key
    for _ in range(2):
        if not folder.is_dir():
            remote_home(address).fetch(home, stage, key)
        mark = (folder / "manifest.json").stat().st_mtime_ns if (folder / "manifest.json").is_file() else 0
        if mark and _checked.get((str(folder), record.digest)) == mark:
            return folder
        here = inspect_folder(home, stage, key)
        if here.record is not None and record.digest in ("", here.record.digest):
            _checked[str(folder), record.digest] = mark
            return folder
        log.warning("the copy of %s on this machine is dropped (%s)", record.uri, _why(here))
        drop(home, stage, key)
    raise ArtifactError(
        f"store {record.uri} no longer has digest {record.digest[:12]}; run the study again, it recomputes what "
        f"depends on stage {stage!r}"
    )
