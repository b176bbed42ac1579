"""The hybrids of a home: the one a study exported, and the bridges of its sweep. Imports no torch.

`<home>/studies/<name>/hybrid` is the exported one; a bridge of another layer is read from the sweep's
store that `study.json` names.
"""

import json
from pathlib import Path
from typing import Any

from dihal_core.config import StudySettings
from dihal_core.errors import ArtifactError, AssetError, ConfigError, nearest
from dihal_core.hybrid.sources import HYBRID
from dihal_core.remote.link import pull_studies, store_folder


def find_study(home: Path, name: str | None = None) -> Path:
    """Return the folder of study `name`, or of the one finished last.

    Raises
    ------
    ConfigError
        If there is none of that name, or none at all.
    """
    pull_studies(home)
    found = {path.parent.name: path for path in (home / "studies").glob("*/study.json")}
    if not found:
        raise ConfigError(f"no finished study under {home / 'studies'}; run `dihal study`, or give --model FOLDER")
    if name is None:
        return max(found.values(), key=lambda path: path.stat().st_mtime).parent
    if name not in found:
        raise ConfigError(f"no study {name!r} under {home}{nearest(name, found)}; there are {', '.join(sorted(found))}")
    return found[name].parent


def exported_hybrid(study: Path) -> Path:
    """Return the folder of the study's hybrid.

    Raises
    ------
    AssetError
        If the study exported none.
    """
    folder = study / HYBRID
    if not (folder / "config.json").is_file():
        raise AssetError(
            f"study {study.name} has exported no hybrid ({folder} is not there); run `dihal study` with its profile "
            "again, finished stages are cached"
        )
    return folder


def sweep_arms(study: Path, layer: int) -> tuple[StudySettings, Path]:
    """Return the settings of a study and the folder of the arms its sweep trained at `layer`.

    Raises
    ------
    ConfigError
        If the sweep has no such layer.
    ArtifactError
        If its store is gone, or the study's result is unreadable.
    """
    try:
        data: dict[str, Any] = json.loads((study / "study.json").read_bytes())
        settings = StudySettings.model_validate(data["settings"])
        stores = {int(row["unit"]): str(row["store"]) for row in data["records"] if row["stage"] == "sweep"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{study / 'study.json'} is unreadable ({type(error).__name__}: {error}); run the study again"
        ) from error
    if layer not in stores:
        last = settings.backbone.num_layers
        raise ConfigError(
            f"layer {layer} has no bridge in study {study.name} of {settings.backbone.name} with {last} blocks; its sweep "
            f"trained layers {', '.join(map(str, sorted(stores))) or 'none'}: 0 is the embedding output, {last} the last block"
        )
    arms = store_folder(study.parent.parent, *stores[layer].split("/", 1)) / "arms"
    if not arms.is_dir():
        raise ArtifactError(f"the bridge of layer {layer} was at {arms}, which is gone; run the study again")
    return settings, arms
