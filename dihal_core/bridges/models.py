"""diffusers models of the `unet` bridge: found in a folder or on the hub, described, and made again. Imports no torch itself.

A saved arm holds the weights of its UNet, so its structure is all that is needed to load it. A frozen model
that an arm does not hold is described by source, configuration and the digest of its weights.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from dihal_core.bridges.building import BUILDING
from dihal_core.errors import AssetError

CONFIG = "config.json"


def part_folder(source: str, part: str) -> Path:
    """Return the folder of a local part: `source` itself, or its subfolder where it is a whole pipeline."""
    folder = Path(source)
    return folder / part if not (folder / CONFIG).is_file() and (folder / part / CONFIG).is_file() else folder


def load_diffusers(model_class: Any, source: str, revision: str | None, part: str) -> Any:
    """Return a diffusers model from `source`: a folder or hub id, the part itself or a pipeline that has it.

    Raises
    ------
    AssetError
        If the weights cannot be had as safetensors.
    """
    if Path(source).is_dir():
        places: list[tuple[str, dict[str, str]]] = [(str(part_folder(source, part)), {})]
    else:
        places = [(source, {"subfolder": part}), (source, {})]
    first: Exception | None = None
    for where, inside in places:
        try:
            # The low-memory way would also leave layers that are built beside it without storage.
            with BUILDING:
                return model_class.from_pretrained(
                    where, revision=revision, use_safetensors=True, low_cpu_mem_usage=False, **inside
                )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            first = first or error
    reason = (str(first).strip().splitlines() or ["no details"])[0][:300]
    raise AssetError(
        f"{part} weights {source!r} could not be loaded ({type(first).__name__}: {reason}); give a folder or hub id "
        "that holds safetensors, or fetch it beforehand"
    ) from first


def public_config(model: Any) -> dict[str, Any]:
    """Return the configuration of a diffusers model as JSON, without where it was loaded from and by which version."""
    return {name: value for name, value in json.loads(model.to_json_string()).items() if not name.startswith("_")}


def remake_unet(config: Mapping[str, Any]) -> Any:
    """Return a UNet of a stored configuration; its weights are to be loaded next.

    Raises
    ------
    ValueError
        If no UNet can be built from it.
    """
    from diffusers import UNet2DConditionModel  # pyright: ignore[reportPrivateImportUsage]

    make: Any = UNet2DConditionModel
    try:
        return keep_weights(make.from_config(dict(config)))
    except Exception as error:  # what a constructor makes of wrong values is its own
        reason = (str(error).strip().splitlines() or ["no details"])[0][:200]
        raise ValueError(f"the stored structure of the UNet is unusable ({type(error).__name__}: {reason})") from error


def keep_weights(model: Any) -> Any:
    """Mark all modules of `model`, so that `make_arm` does not draw their weights anew."""
    for module in model.modules():
        module.keeps_weights = True
    return model


def require_same(stored: Mapping[str, Any], found: Mapping[str, Any], part: str, place: str) -> None:
    """Raise `AssetError` unless a frozen model has the weights and the configuration that were stored.

    Parameters
    ----------
    stored, found
        `{"sha256": ..., "config": {...}}`; entries that only a newer diffusers has are not compared.
    part, place
        For the message.
    """
    was, now = str(stored.get("sha256")), str(found["sha256"])
    if was != now:
        raise AssetError(
            f"the {part} in {place} has weights with digest {now[:12]}, the bridge was trained with {was[:12]}: its "
            "latents would mean something else. Put the weights back it was trained with (same source and revision), or "
            "train the bridge again"
        )
    config = found["config"]
    wrong = sorted(name for name, value in stored.get("config", {}).items() if config.get(name, value) != value)
    if wrong:
        raise AssetError(
            f"the {part} in {place} has {wrong[0]} = {config[wrong[0]]!r}, the bridge was trained with "
            f"{stored['config'][wrong[0]]!r}; put the configuration back it was trained with, or train the bridge again"
        )
