"""What a model card says of a bridge's kind, of where its weights come from, and under which licences they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dihal_core.bridges.origins import Origin, origins

OWN = "Apache-2.0"
RAIL = "CreativeML Open RAIL-M"
PUBLISHED = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": RAIL,
    "runwayml/stable-diffusion-v1-5": RAIL,
    "CompVis/stable-diffusion-v1-4": RAIL,
}
"""Licences of hub ids, as in NOTICE; for others the publisher's is pointed at."""
UNKNOWN = "that of its publisher"


def design(bridge: Any) -> str:
    """Return whose design the bridge is."""
    if bridge.kind == "unet":
        return (
            "the bridge is of the paper's kind, a UNet in the style of Stable Diffusion v1.5; what the paper leaves open "
            "is this project's choice"
        )
    return "the bridge is this project's own design"


def licence_of(origin: Origin) -> str:
    """Return the licence of published weights, or whose it is."""
    if origin.local:
        return f"{UNKNOWN} (local copy; Stable Diffusion v1's is {RAIL})"
    return PUBLISHED.get(origin.source, UNKNOWN)


def origin_rows(bridge: Any, structure: Mapping[str, Any] | None) -> list[str]:
    """Return the rows of the card's table that name UNet and VAE; none for a bridge that has neither."""
    if bridge.kind != "unet":
        return []
    found = {origin.part: origin for origin in origins(bridge)}
    rows = [
        f"| UNet | {'trained from ' + _place(found['unet']) if 'unet' in found else 'trained from random weights'} |"
    ]
    if bridge.vae is None:
        return [*rows, "| VAE | none |"]
    digest = ((structure or {}).get("vae") or {}).get("sha256")
    where = _place(found["vae"]) if "vae" in found else "random weights (a test)"
    return [*rows, f"| VAE, frozen | {where}{f', digest of its weights `{digest}`' if digest else ''} |"]


def _name(origin: Origin) -> str:
    """Return a hub id, or the last part of a folder: a card is shared, and the folder's place is nobody's business."""
    return Path(origin.source).name if origin.local else origin.source


def _place(origin: Origin) -> str:
    return f"`{_name(origin)}`" + (f", revision `{origin.revision}`" if origin.revision and not origin.local else "")


def licence_names(bridge: Any) -> tuple[str, ...]:
    """Return the licences that hold for the bridge's weights beside the project's own, each once."""
    return tuple(dict.fromkeys(licence_of(origin) for origin in origins(bridge)))


def licence_rows(bridge: Any) -> list[str]:
    """Return the lines on the bridge's weights, the models they derive from, and the code."""
    found = origins(bridge)
    if not found:
        return ["- bridge weights and code: Apache-2.0"]
    how = {"unet": "started from", "vae": "were trained through the frozen"}
    names = " and ".join(f"{how[origin.part]} {origin.part.upper()} `{_name(origin)}`" for origin in found)
    return [
        f"- bridge weights: they {names}, so they are passed on under its terms: {'; '.join(licence_names(bridge))}",
        *(f"- {origin.part.upper()} `{_name(origin)}`: {licence_of(origin)}" for origin in found),
        f"- code: {OWN}",
    ]


def whereabouts(bridge: Any, merged: bool) -> str:
    """Return the sentence on what the folder holds and what is found elsewhere."""
    vae = bridge.kind == "unet" and bridge.vae is not None
    if merged:
        return (
            f"This folder holds the bridge, the backbone{' and the VAE' if vae else ''}: it loads by itself, and passing "
            "it on passes on weights whose licences stand below."
        )
    if vae:
        return (
            "This folder holds the bridge; backbone and VAE are found by their references and checked against the "
            "digests above. `dihal export --merged --to FOLDER` writes a copy that carries both."
        )
    return (
        "This folder holds the bridge; the backbone is found by its reference and checked against the digest above. "
        "`dihal export --merged --to FOLDER` writes a copy that carries it."
    )
