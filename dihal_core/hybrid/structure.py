"""What a saved hybrid needs beside the weights of its bridge: the structure of a UNet, and the frozen VAE.

`config.json` carries `bridge_structure`: sources, configurations and the digest of the VAE's weights. A merged
copy also holds the VAE, as diffusers saves it, in the folder `vae`; a reference finds it by its source.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dihal_core.bridges.frame import Arm
from dihal_core.bridges.latents import VaeLatents
from dihal_core.bridges.models import CONFIG, public_config
from dihal_core.errors import ArtifactError
from dihal_core.files import dump_json, write_atomically

VAE = "vae"
INSIDE = "inside"
"""Marks, in the structure of a merged copy, a model that lies in it."""


def save_structure(arm: Arm, folder: Path, merged: bool) -> dict[str, Any] | None:
    """Return the structure of `arm` for `config.json`, None for most kinds; a merged copy gets the VAE's files."""
    structure = arm.structure()
    latents = getattr(arm, "latents", None)
    if merged and isinstance(latents, VaeLatents):
        vae = latents.autoencoder
        vae.save_pretrained(folder / VAE, safe_serialization=True)
        described = {"_class_name": type(vae).__name__, **public_config(vae)}
        write_atomically(folder / VAE / CONFIG, dump_json(described))  # without the folder it was loaded from
        structure[VAE] = {**structure[VAE], INSIDE: True}
    return structure or None


def stored_structure(found: Any, place: Path) -> Mapping[str, Any] | None:
    """Return the structure a hybrid in `place` was saved with, ready for `make_arm`.

    Raises
    ------
    ArtifactError
        If it is none.
    """
    if found is None:
        return None
    unet, vae = (found.get("unet"), found.get(VAE, {})) if isinstance(found, dict) else (None, None)
    if not isinstance(vae, dict) or not isinstance(unet, dict) or not isinstance(unet.get("config"), dict):
        raise ArtifactError(
            f"{place / CONFIG} has a bridge_structure that describes no UNet; copy or save the hybrid again"
        )
    return {**found, VAE: {**vae, "folder": str(place / VAE)}} if vae.get(INSIDE) else found
