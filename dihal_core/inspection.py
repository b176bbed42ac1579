"""Whether a store can be trusted: its files against the digests in its manifest, its format against ours."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from dihal_core.errors import ArtifactError
from dihal_core.files import MANIFEST, data_files, hash_files, store_digest
from dihal_core.store import STORE_FORMAT, StageRecord

FULL_HASH_LIMIT_BYTES = 64 * 2**30
"""Stores up to this size are re-hashed before each use; larger ones are checked by size, and chunk by
chunk through their crc32c when read."""


@dataclasses.dataclass(frozen=True)
class StoreStatus:
    """What was found under one key. `reason` is a sentence for people."""

    state: Literal["intact", "partial", "damaged", "absent", "unpublished"]
    reason: str
    record: StageRecord | None = None
    manifest: dict[str, Any] | None = None


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
    present = {path.relative_to(folder).as_posix(): path for path in data_files(folder)}
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
