"""Which stores of a remote home no study refers to, and how they are removed: `dihal_core.housekeeping` for objects.

What studies refer to is read from the objects themselves, and from the working copy, whose last words may not be
uploaded. A removed store loses its manifest first, so that it is never torn; a study that needs it makes it again.
"""

import dataclasses
import fcntl
import json
import logging
import platform
import time
from collections.abc import Iterable
from typing import Any

from dihal_core.errors import ArtifactError, ResourceError
from dihal_core.files import MANIFEST
from dihal_core.housekeeping import DEFAULT_AGE_DAYS, IN_USE, try_lock
from dihal_core.journal import process_alive, process_place
from dihal_core.references import followed, names_stores, texts_of_studies
from dihal_core.remote import copies, garbage
from dihal_core.remote.address import working_copy
from dihal_core.remote.home import remote_home
from dihal_core.remote.objects import Found
from dihal_core.remote.studies import INDEX, RUNS, STUDIES
from dihal_core.stages import STAGES

log = logging.getLogger(__name__)

PARTIAL = ".partial"
LOOK_AGAIN_SECONDS = 30.0
"""During a removal: between two looks at what studies need and which are running."""


@dataclasses.dataclass(frozen=True)
class Unused:
    """Objects of a remote home that nothing needs."""

    name: str
    """`stage/key`, `stage/key.partial`, or `stage/key/v-...` of an attempt that was never committed."""
    kind: str
    """`store`, `unfinished` or `uncommitted`."""
    bytes: int
    age_days: float
    objects: tuple[str, ...]
    facts: tuple[Found, ...]
    """Size, checksum and moment of each of `objects`: what is written again under an old name is another object."""


def _named(name: str, kind: str, held: dict[str, Found], moment: float) -> Unused:
    names = tuple(sorted(held))
    age = (moment - max((facts.modified for facts in held.values()), default=moment)) / 86400
    size = sum(facts.bytes for facts in held.values())
    return Unused(name, kind, size, age, names, tuple(held[item] for item in names))


def referred(address: str) -> set[str]:
    """Return `stage/key` of every finished store of a remote home that a study needs.

    Raises
    ------
    ArtifactError
        If a study's file cannot be read: what it refers to is unknown, so nothing may be called unused.
    NetworkError, ResourceError
        If the home cannot be asked.
    """
    remote = remote_home(address)
    manifests: dict[str, dict[str, Any]] = {}
    for stage in STAGES:
        for key in remote.objects.folders(stage):
            data = None if key.endswith(PARTIAL) else remote.objects.read(f"{stage}/{key}/{MANIFEST}")
            if data is not None:
                manifests[f"{stage}/{key}"] = _parsed(data) or {"stage": stage, "digest": ""}

    def read(store: str, file: str) -> bytes | None:
        folder = remote.committed_folder(*store.split("/"))
        return None if folder is None else remote.objects.read(f"{store}/{folder}/{file}")

    texts = texts_of_studies(working_copy(address))
    for name in sorted(remote.objects.listing(STUDIES)):
        if name.endswith(f"/{INDEX}") or not names_stores(name):
            continue
        data = remote.objects.read(name)
        if data is None:
            continue  # replaced at this moment
        try:
            json.loads(data)
            texts.append(data.decode())
        except ValueError as error:
            raise ArtifactError(
                f"{address}/{name} is unreadable ({type(error).__name__}: {error}), so what it needs is unknown; run that "
                "study again, or remove its objects, then look for unused stores again"
            ) from error
    return followed(manifests, texts, read)


def _parsed(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def unused(address: str, older_than_days: float = DEFAULT_AGE_DAYS, now: float | None = None) -> list[Unused]:
    """Return what nothing needs, oldest first: unused stores, snapshots of unfinished ones, attempts never committed.

    Raises
    ------
    ArtifactError, NetworkError, ResourceError
        If what studies refer to cannot be read.
    """
    remote, moment = remote_home(address), time.time() if now is None else now
    kept, found = referred(address), []
    for stage in STAGES:
        folders: dict[str, dict[str, Found]] = {}
        for name, facts in remote.objects.listing(stage).items():
            folders.setdefault("/".join(name.split("/")[:2]), {})[name] = facts
        for name, held in sorted(folders.items()):
            kind = "unfinished" if name.endswith(PARTIAL) else "store"
            committed = kind == "unfinished" or f"{name}/{MANIFEST}" in held
            item = _named(name, kind, held, moment)
            if committed and name not in kept and item.age_days >= older_than_days:
                found.append(item)
    known = {item.name for item in found}
    for item in garbage.leftovers(address, max(older_than_days, 0.0) * 86400, moment):
        if item.name not in known and item.name.rsplit("/", 1)[0] not in known:
            found.append(_named(item.name, "uncommitted", remote.objects.listing(item.name), moment))
    return sorted(found, key=lambda item: -item.age_days)


def running_elsewhere(address: str, within_days: float = DEFAULT_AGE_DAYS) -> str | None:
    """Return which run may be going on, in words, or None: its journal says running and nobody can say that it is not.

    A run of another machine counts for `within_days` days after its last sign.
    """
    remote = remote_home(address)
    for name, facts in sorted(remote.objects.listing(STUDIES).items()):
        parts = name.split("/")
        if len(parts) != 4 or parts[2] != RUNS:
            continue
        journal = _parsed(remote.objects.read(name) or b"null") or {}
        process = journal.get("process") or {}
        here = process.get("place", "") in ("", process_place())  # else another container may have our host's name
        alive = process_alive(process) if here else None
        recent = time.time() - facts.modified < within_days * 86400
        if journal.get("state") == "running" and (alive or (alive is None and recent)):
            where = "this machine" if here and process.get("host") == platform.node() else process.get("host")
            return f"{journal.get('flow')} of study {parts[1]} on {where} ({address}/{name})"
    return None


def remove(address: str, chosen: Iterable[Unused]) -> list[Unused]:
    """Remove what is unused, each store's manifest first, and this machine's copies; return what was removed.

    What somebody wrote to since it was listed stays, and what a study has come to need. Both are asked again while a
    long removal is under way; it ends early if a study has begun elsewhere.

    Raises
    ------
    ResourceError
        If a study is running on this machine, or may be running on another one.
    """
    home = working_copy(address)
    with try_lock(home / IN_USE, fcntl.LOCK_EX) as alone:
        going = None if alone is None else running_elsewhere(address)
        if alone is None or going is not None:
            raise ResourceError(
                f"a study is running in {address} and may be about to use these stores: {going or 'on this machine'}; "
                "wait until it has ended, then run the same command again (nothing was removed). A run whose machine is "
                "gone counts for 7 days after its last sign; remove its journal to say that it has ended"
            )
        done, objects = [], remote_home(address).objects
        kept, looked = referred(address), time.monotonic()
        for item in chosen:
            if time.monotonic() - looked >= LOOK_AGAIN_SECONDS:
                going = running_elsewhere(address)
                if going is not None:
                    log.warning("%s has begun meanwhile; the rest stays, run the same command when it has ended", going)
                    break
                kept, looked = referred(address), time.monotonic()
            held = objects.listing(item.name)
            if item.name in kept or _named(item.name, item.kind, held, 0.0).facts != item.facts:
                continue
            if item.kind == "store":
                copies.discard(address, home, *item.name.split("/"))
            objects.remove(name for name in item.objects if name.count("/") != 2 or not name.endswith(MANIFEST))
            done.append(item)
        return done
