"""Was a store made with this backbone? Read from its manifest. Imports no torch."""

import json
from pathlib import Path
from typing import Any

from dihal_core.config import BackboneSettings
from dihal_core.errors import ArtifactError
from dihal_core.files import MANIFEST

IDENTITY = ("source", "identifier", "model_type", "num_layers", "hidden_size", "vocab_size", "quantisation", "dtype")
"""Settings that make another model, or other numbers of the same one."""


def require_backbone(folder: Path, backbone: BackboneSettings) -> None:
    """Check that the store in `folder` was made with `backbone`; a folder without manifest is not judged.

    The stages of a study cannot meet another one's store, because keys cover the backbone; a store that was
    copied, or is handed over by its path, can.

    Raises
    ------
    ArtifactError
        If it was made with another backbone, naming both.
    """
    made = _made_with(folder)
    if made is None:
        return
    ours = backbone.model_dump(mode="json")
    wrong = [name for name in IDENTITY if name in made and made[name] != ours[name]]
    commits = made.get("revision"), ours["revision"]
    if not wrong and None not in commits and commits[0] != commits[1]:
        wrong = ["revision"]
    if wrong:
        said = ", ".join(f"{name} {made[name]!r} (here {ours[name]!r})" for name in wrong)
        raise ArtifactError(
            f"store {folder} was made with another backbone, {made.get('name')!r} instead of {backbone.name!r}: {said}; "
            "run the study of this backbone, or give the store of the same one"
        )


def _made_with(folder: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        found = manifest["provenance"]["request"]["settings"]["backbone"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no manifest, or a stage that reads no backbone; its integrity is checked elsewhere
    return found if isinstance(found, dict) else None
