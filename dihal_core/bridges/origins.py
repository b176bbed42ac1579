"""Where the published parts of a `unet` bridge come from: pinned to a commit, identified in keys. Imports no torch.

A part is named by a folder or a hub id, which say nothing of the weights behind them: a branch moves, a
folder's files are replaced. A hub part is its id and commit, a local one the SHA-256 of its files, as with
backbones.
"""

import dataclasses
from pathlib import Path
from typing import Any

from dihal_core.backbones.hub import is_hub_id
from dihal_core.backbones.identity import file_digests, pin_commit
from dihal_core.bridges.ablation_arms import ABLATION_ARMS, parse_unit
from dihal_core.bridges.models import CONFIG, part_folder
from dihal_core.config import BridgeBase, StudySettings, UnetBridgeSettings
from dihal_core.errors import AssetError

RANDOM = "random"
"""`bridge.vae` of a tiny autoencoder with random weights (smoke profile)."""
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", CONFIG)
BUILDING_STAGES = ("gates", "sweep", "replace", "evaluate", "cost", "hybrid", "ablate")
"""Stages whose builders make or load the bridge itself."""

LOADING_STAGES = ("evaluate", "cost", "hybrid")
"""Of these, those that load what `replace` trained: it holds the UNet, and its digest is in their keys."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """One published part."""

    part: str
    """`unet` or `vae`."""
    source: str
    revision: str | None

    @property
    def local(self) -> bool:
        """Whether it is looked for on this machine."""
        return Path(self.source).is_dir() or not is_hub_id(self.source)


def origins(bridge: BridgeBase | None) -> tuple[Origin, ...]:
    """Return the published parts of a bridge; none for other kinds than `unet` and for random weights."""
    if not isinstance(bridge, UnetBridgeSettings):
        return ()
    found = []
    if bridge.unet is not None:
        found.append(Origin("unet", bridge.unet, bridge.unet_revision))
    if bridge.vae is not None and bridge.vae != RANDOM:
        found.append(Origin("vae", bridge.vae, bridge.vae_revision))
    return tuple(found)


def pin_bridges(settings: StudySettings, ask_hub: bool) -> StudySettings:
    """Return settings whose hub parts of bridges carry a commit as revision, as `pin_revision` does for backbones.

    Raises
    ------
    ConfigError
        If neither a downloaded snapshot nor the hub gives a commit.
    """
    bridge = _pinned(settings.bridge, "bridge", ask_hub)
    unet = settings.ablation.unet
    if not isinstance(settings.bridge, UnetBridgeSettings):  # else the comparison takes the study's own
        unet = _pinned(unet, "ablation.unet", ask_hub)
    if bridge is settings.bridge and unet is settings.ablation.unet:
        return settings
    ablation = settings.ablation.model_copy(update={"unet": unet})
    return settings.model_copy(update={"bridge": bridge, "ablation": ablation})


def _pinned(bridge: Any, label: str, ask_hub: bool) -> Any:
    found = {}
    for origin in origins(bridge):
        if not origin.local:
            found[f"{origin.part}_revision"] = pin_commit(
                origin.source,
                origin.revision,
                (f"{origin.part}/{CONFIG}", CONFIG),
                ask_hub,
                f"give {label}.{origin.part} a local folder",
            )
    return bridge.model_copy(update=found) if found else bridge


def without_revisions(bridge: dict[str, Any]) -> dict[str, Any]:
    """Return bridge settings as JSON with no revision named, as in the name of a study."""
    return {name: None if name in ("unet_revision", "vae_revision") else value for name, value in bridge.items()}


def built_bridge(stage: str, settings: StudySettings, unit: str | int | None) -> BridgeBase | None:
    """Return the settings of the bridge that one unit of `stage` makes or loads, None if it makes none."""
    if stage not in BUILDING_STAGES:
        return None
    if stage == "ablate" and unit is not None:
        return ABLATION_ARMS[parse_unit(str(unit))[0]].settings(settings.bridge, settings.ablation)
    return settings.bridge


def bridge_values(stage: str, settings: StudySettings, unit: str | int | None, home: Path) -> dict[str, Any]:
    """Return what enters the key of a unit because its bridge has published parts: nothing for any other bridge."""
    found = [
        origin
        for origin in origins(built_bridge(stage, settings, unit))
        if origin.part != "unet" or stage not in LOADING_STAGES
    ]
    return {"bridge_identity": {origin.part: _identity(origin, home) for origin in found}} if found else {}


def _identity(origin: Origin, home: Path) -> dict[str, Any]:
    if not origin.local:
        return {"source": "hub", "id": origin.source, "revision": origin.revision or "main"}
    folder = part_folder(origin.source, origin.part)
    files = sorted({file for pattern in WEIGHT_FILES for file in folder.glob(pattern)})
    if not any(file.suffix == ".safetensors" for file in files):
        raise AssetError(
            f"the {origin.part} of the bridge is to come from {origin.source!r}, where there is no {CONFIG} with "
            "safetensors weights; give a folder that diffusers' save_pretrained wrote, a pipeline's folder, or a hub id"
        )
    return {"source": "folder", "files": file_digests(files, home / "identities.json")}
