"""Checkpoints of a training run: one safetensors file, replaced atomically, nothing pickled.

No random state is stored, because none is carried from step to step: order, times and noise of a step
follow from (seed, step). A resumed run ends in the same bits as an undisturbed one.
"""

import json
import logging
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dihal_core.files import write_atomically

log = logging.getLogger(__name__)

NAME = "checkpoint.safetensors"
FACTS = "facts"


class Checkpoints:
    """The latest checkpoint in a folder."""

    def __init__(self, folder: Path):
        self.path = folder / NAME

    def save(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Replace the checkpoint by these tensors and JSON facts."""
        packed = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        write_atomically(self.path, safetensors.torch.save(packed, {FACTS: json.dumps(facts)}))

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the latest checkpoint, or None. An unreadable one is set aside: training starts anew."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as handle:
                facts = json.loads(handle.metadata()[FACTS])
                return {name: handle.get_tensor(name) for name in handle.keys()}, facts  # noqa: SIM118
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            log.warning("checkpoint %s is unreadable (%s); training starts at step 0", self.path, error)
            self.remove()
            return None

    def kept(self) -> str:
        """Say which state an interrupted or diverged run leaves behind."""
        if not self.path.exists():
            return "no checkpoint had been written yet"
        try:
            with safe_open(self.path, framework="pt") as handle:
                done = json.loads(handle.metadata()[FACTS])["done"]
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return f"the checkpoint {self.path} is unreadable"
        return f"the checkpoint of step {done} is kept in {self.path}"

    def remove(self) -> None:
        """Delete the checkpoint, if there is one: a finished store holds results only."""
        self.path.unlink(missing_ok=True)


def kept_by(checkpoints: Checkpoints | None) -> str:
    """Say which state a run that stops here leaves behind."""
    return "it keeps no checkpoints" if checkpoints is None else checkpoints.kept()
