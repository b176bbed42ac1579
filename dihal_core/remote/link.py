"""What a home does beyond its folder. For a plain local home every function here does the local thing only."""

import contextlib
import json
import logging
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from dihal_core.files import MANIFEST, write_atomically
from dihal_core.remote.address import is_address, remote_address, working_copy
from dihal_core.store import StageRecord, read_json

log = logging.getLogger(__name__)


def home_uri(home: Path) -> str:
    """Return what names `home` on every machine: its address, or the path of a local home."""
    return remote_address(home) or str(home)


def home_path(text: str) -> Path:
    """Return the folder of a home named by `home_uri`."""
    return working_copy(text) if is_address(text) else Path(text)


def check_home(home: Path) -> str | None:
    """Return the address of a remote home after writing to it; None for a local one.

    Raises
    ------
    ResourceError, NetworkError, ConfigError
        If it cannot be written: the cause and the next step.
    """
    address = remote_address(home)
    if address is not None:
        from dihal_core.remote.home import remote_home

        remote_home(address).check()
    return address


def share(home: Path, record: StageRecord) -> StageRecord:
    """Publish a finished store of a remote home; return the record to hand on."""
    address = remote_address(home)
    if address is None or is_address(record.uri):
        return record
    from dihal_core.remote import copies, partial

    shared = copies.share(address, home, record)
    partial.forget(address, record.stage, record.key)
    return shared


def resumable(home: Path, stage: str, key: str, every_s: float) -> AbstractContextManager[None]:
    """Return a context in which unfinished units of a remote home are uploaded, and begin from what is there."""
    address = remote_address(home)
    if address is None:
        return contextlib.nullcontext()
    from dihal_core.remote import partial

    return partial.resumable(address, home, stage, key, every_s)


def forget_partial(home: Path, stage: str, key: str) -> None:
    """Remove the uploaded units of an unfinished store whose local folder is being discarded."""
    address = remote_address(home)
    if address is not None:
        from dihal_core.remote import partial

        partial.forget(address, stage, key)


def is_present(record: StageRecord) -> bool:
    """Say whether the store of a record is there, without fetching it."""
    if not is_address(record.uri):
        return record.path.is_dir()
    from dihal_core.remote import copies, home

    address, stage, key = copies.split_uri(record.uri)
    return home.remote_home(address).is_there(stage, key)


def read_manifest(record: StageRecord) -> dict[str, Any]:
    """Return the manifest of a record's store without fetching the store; empty if there is none.

    Raises
    ------
    ArtifactError
        If it is unreadable.
    """
    if not is_address(record.uri):
        return read_json(record, MANIFEST) if (record.path / MANIFEST).is_file() else {}
    from dihal_core.remote import copies, home

    address, stage, key = copies.split_uri(record.uri)
    status = home.remote_home(address).inspect(stage, key)
    return {name: value for name, value in (status.manifest or {}).items() if name != home.SECTION}


def finished_manifests(home: Path, stage: str) -> Iterator[dict[str, Any]]:
    """Yield the manifest of every finished store of a stage; unreadable ones are passed over."""
    seen = set()
    for path in sorted((home / stage).glob(f"*/{MANIFEST}")):
        try:
            manifest = json.loads(path.read_bytes())
            seen.add(manifest["key"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        yield manifest
    address = remote_address(home)
    if address is not None:
        from dihal_core.remote.home import remote_home

        found = remote_home(address).manifests(stage)
        yield from (found[key] for key in sorted(found) if key not in seen)


def remote_records(home: Path, stage: str, unit: str | int | None) -> list[StageRecord]:
    """Return records of the finished stores of one unit on a remote home, newest first; none for a local home."""
    address = remote_address(home)
    if address is None:
        return []
    from dihal_core.remote.home import remote_home

    there = [item for item in remote_home(address).manifests(stage).values() if item["unit"] == unit]
    return [
        StageRecord(stage, item["key"], f"{address}/{stage}/{item['key']}", item["digest"], item["counts"], unit)
        for item in sorted(there, key=lambda item: item["provenance"]["finished"], reverse=True)
    ]


def bring_store(home: Path, name: str) -> None:
    """Fetch the one store of a remote home whose `stage/key` contains `name`; none or several are left alone."""
    address = remote_address(home)
    if address is None:
        return
    from dihal_core.remote.home import remote_home
    from dihal_core.stages import STAGES

    remote = remote_home(address)
    found = [
        (stage, key)
        for stage in STAGES
        for key in remote.objects.folders(stage)
        if name.strip("/") in f"{stage}/{key}" and not key.endswith(".partial")
    ]
    if len(found) == 1:
        store_folder(home, *found[0])


def store_folder(home: Path, stage: str, key: str) -> Path:
    """Return the folder of a store, fetched first if the home is remote and it is not here; it may not exist."""
    address, folder = remote_address(home), home / stage / key
    if address is None or folder.is_dir():
        return folder
    from dihal_core.remote.home import remote_home

    return remote_home(address).fetch(home, stage, key) if _is_there(address, stage, key) else folder


def _is_there(address: str, stage: str, key: str) -> bool:
    from dihal_core.remote.home import remote_home

    return remote_home(address).inspect(stage, key).state == "intact"


def pull_study(home: Path, name: str) -> None:
    """Bring the folder of a study from a remote home."""
    address = remote_address(home)
    if address is not None:
        from dihal_core.remote import studies

        studies.pull(address, home, name)


def pull_studies(home: Path, only: Collection[str] = ()) -> None:
    """Bring the folders of all studies from a remote home, or `only` these files of each."""
    address = remote_address(home)
    if address is not None:
        from dihal_core.remote import studies

        studies.pull_all(address, home, only)


def push_study(home: Path, name: str) -> str | None:
    """Upload the folder of a study to a remote home and return its address; None for a local home."""
    address = remote_address(home)
    if address is None:
        return None
    from dihal_core.remote import studies

    return studies.push(address, home, name)


def share_file(home: Path, name: str) -> str | None:
    """Upload a small file of the working copy to its remote home and return its address; None for a local home.

    Raises
    ------
    NetworkError, ResourceError
        If it cannot be uploaded; the one on this machine is kept.
    """
    address = remote_address(home)
    if address is None:
        return None
    write_shared(home, name, (home / name).read_bytes())
    return f"{address}/{name}"


def share_journal(path: Path) -> None:
    """Let other machines see the journal `<home>/studies/<name>/runs/<flow>.json` of a run; nothing for a local home."""
    home = path.parents[3]
    address = remote_address(home)
    if address is not None:
        from dihal_core.remote import journals

        journals.push(address, home, path)


def pull_journals(home: Path) -> str | None:
    """Bring the journals of a remote home's other machines; return None, or why they could not be had."""
    address = remote_address(home)
    if address is None:
        return None
    from dihal_core.remote import journals

    return journals.pull(address, home)


def state_elsewhere(home: Path, stage: str, key: str) -> tuple[str, int]:
    """Return what a remote home holds of a store, done, partial or absent, and how many units a snapshot has committed.

    Raises
    ------
    NetworkError, ResourceError
        If it cannot be asked.
    """
    address = remote_address(home)
    if address is None:
        return "absent", 0
    from dihal_core.remote import home as remote
    from dihal_core.remote import partial

    if remote.remote_home(address).is_there(stage, key):
        return "done", 0
    commits = partial.committed(address, stage, key)
    return ("absent", 0) if commits is None else ("partial", commits)


def read_shared(home: Path, name: str) -> bytes | None:
    """Return a small file of a home that all its machines share, None if there is none."""
    address = remote_address(home)
    if address is None:
        return (home / name).read_bytes() if (home / name).exists() else None
    from dihal_core.remote.home import remote_home

    return remote_home(address).objects.read(name)


def write_shared(home: Path, name: str, data: bytes) -> None:
    """Write a small file of a home that all its machines share."""
    address = remote_address(home)
    if address is None:
        write_atomically(home / name, data)
        return
    from dihal_core.remote.home import remote_home

    remote_home(address).objects.write(name, data)
