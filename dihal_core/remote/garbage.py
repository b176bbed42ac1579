"""What killed uploads leave on a remote home: objects that no manifest and no study names."""

import dataclasses
import time

from dihal_core.files import MANIFEST
from dihal_core.remote.home import remote_home
from dihal_core.stages import STAGES

GRACE_SECONDS = 24 * 3600.0
"""Younger objects may belong to an upload that is under way."""


@dataclasses.dataclass(frozen=True)
class Leftover:
    """One folder of objects nobody refers to. `name` is relative to the home's address."""

    name: str
    bytes: int
    objects: tuple[str, ...]


def leftovers(address: str, grace_s: float = GRACE_SECONDS, now: float | None = None) -> list[Leftover]:
    """Return attempts that were never committed and snapshots of finished stores, untouched for `grace_s` seconds.

    A snapshot of an unfinished store is kept: it is what another machine goes on from.
    """
    remote = remote_home(address)
    limit = (time.time() if now is None else now) - grace_s
    found = []
    for stage in STAGES:
        folders: dict[str, list[str]] = {}
        listing = remote.objects.listing(stage)
        for name in listing:
            parts = name.split("/")
            if len(parts) > 3 or (len(parts) == 3 and parts[1].endswith(".partial")):
                place = "/".join(parts[:2] if parts[1].endswith(".partial") else parts[:3])
                folders.setdefault(place, []).append(name)
        for place, names in sorted(folders.items()):
            key = place.split("/")[1]
            if key.endswith(".partial"):
                needed = f"{stage}/{key.removesuffix('.partial')}/{MANIFEST}" not in listing
            else:
                needed = remote.committed_folder(stage, key) == place.split("/")[2]
            if not needed and max(listing[name].modified for name in names) < limit:
                found.append(Leftover(place, sum(listing[name].bytes for name in names), tuple(sorted(names))))
    return found


def remove(address: str, found: list[Leftover]) -> None:
    """Delete leftovers."""
    for item in found:
        remote_home(address).objects.remove(item.objects)
