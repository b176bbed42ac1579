"""Where a saved hybrid finds the asset its backbone lies in. Imports no torch."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from dihal_core.config import BackboneSettings
from dihal_core.errors import AssetError
from dihal_core.files import MANIFEST
from dihal_core.remote.link import remote_records
from dihal_core.store import StageRecord, resolve_home

HYBRID = "hybrid"
"""Folder of a study that holds its hybrid: `<home>/studies/<name>/hybrid`."""


def homes_near(folder: Path, home: str | os.PathLike[str] | None = None) -> tuple[Path, ...]:
    """Return the homes to look in: the one given, else the one `folder` was published in and the default one."""
    if home is not None:
        return (resolve_home(home),)
    whole = folder.resolve()
    published = whole.name == HYBRID and whole.parent.parent.name == "studies"
    return tuple(dict.fromkeys([*([whole.parents[2]] if published else []), resolve_home()]))


def asset_records(backbone: BackboneSettings, homes: Sequence[Path]) -> dict[str, StageRecord]:
    """Return `{identifier: record}` of the unpacked asset, newest first home first.

    Whether it holds the right weights is decided by their digest once they are loaded.

    Raises
    ------
    AssetError
        If no home holds it.
    """
    for home in homes:
        stores = [path for path in (home / "assets").glob(f"{backbone.identifier}-*") if (path / MANIFEST).is_file()]
        for store in sorted(stores, key=lambda path: path.stat().st_mtime, reverse=True):
            try:
                manifest = json.loads((store / MANIFEST).read_bytes())
                record = StageRecord("assets", manifest["key"], str(store), manifest["digest"], unit=manifest["unit"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if record.unit == backbone.identifier:
                return {backbone.identifier: record}
        for record in remote_records(home, "assets", backbone.identifier):
            return {backbone.identifier: record}
    raise AssetError(
        f"the backbone {backbone.name!r} lies in asset {backbone.identifier!r}, which is not under "
        f"{' or '.join(str(home) for home in homes)}; run `dihal setup`, pass home=, or save a merged copy"
    )
