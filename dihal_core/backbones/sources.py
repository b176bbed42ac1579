"""Where the files of a backbone lie: inside an asset, a local GGUF, a local folder, or on the hub."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dihal_core.config import BackboneSettings
from dihal_core.errors import AssetError
from dihal_core.store import StageRecord


@dataclasses.dataclass(frozen=True)
class Location:
    """First argument and keyword arguments of `from_pretrained`, and how to name the place to people."""

    where: str
    arguments: dict[str, Any]
    label: str
    gguf: Path | None = None


def locate(backbone: BackboneSettings, assets: Mapping[str, StageRecord]) -> Location:
    """Return the place `from_pretrained` reads `backbone` from.

    Raises
    ------
    AssetError
        If the asset record, the GGUF or the folder is missing.
    """
    if backbone.source in ("asset", "gguf"):
        path = _gguf_of_asset(backbone, assets) if backbone.source == "asset" else Path(backbone.identifier)
        if not path.is_file():
            raise AssetError(
                f"backbone {backbone.name!r} wants the GGUF file {path}, which does not exist; "
                "correct backbone.identifier or put the file there"
            )
        return Location(str(path.parent), {"gguf_file": path.name}, str(path), gguf=path)
    if backbone.source == "folder":
        folder = Path(backbone.identifier)
        if not (folder / "config.json").is_file():
            raise AssetError(f"backbone folder {folder} has no config.json; give a folder written by save_pretrained")
        return Location(str(folder), {"local_files_only": True}, str(folder))
    arguments: dict[str, Any] = {"trust_remote_code": backbone.trust_remote_code}
    if backbone.revision is not None:
        arguments["revision"] = backbone.revision
    return Location(backbone.identifier, arguments, f"hub model {backbone.identifier}")


def _gguf_of_asset(backbone: BackboneSettings, assets: Mapping[str, StageRecord]) -> Path:
    if backbone.identifier not in assets:
        raise AssetError(
            f"backbone {backbone.name!r} needs asset {backbone.identifier!r}, "
            f"got {', '.join(sorted(assets)) or 'none'}; run `dihal setup`"
        )
    folder = assets[backbone.identifier].path
    files = sorted(folder.rglob("*.gguf"))
    if len(files) != 1:
        raise AssetError(
            f"asset {backbone.identifier!r} at {folder} holds {len(files)} GGUF files, expected one; run `dihal setup`"
        )
    return files[0]
