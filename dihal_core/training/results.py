"""What sweep and replace share: the setting of a layer, and the files in which trained arms survive a kill.

Letters: N windows.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from dihal_core.bridges.arms import load_arms, make_arm, save_arms
from dihal_core.bridges.frame import Arm, Frame, TrainedArm
from dihal_core.config import BridgeSettings
from dihal_core.errors import ConfigError
from dihal_core.store import StageStore
from dihal_core.training.loop import Run

ARMS = "arms"
TRAINING = "training.json"
TRAINED = "trained"
"""Commit after which training is not repeated."""


def require_layer(layer: Any, num_layers: int, name: str) -> int:
    """Return `layer` as int if a bridge can enter there.

    Raises
    ------
    ConfigError
        For anything but a block index 1..L-1.
    """
    if not isinstance(layer, int) or not 1 <= layer < num_layers:
        raise ConfigError(
            f"layer {layer!r} is outside 1..{num_layers - 1} of {name}; choose a block index: 0 is the embedding "
            f"output, {num_layers} the last block, neither can be replaced"
        )
    return layer


def fresh_arms(names: tuple[str, ...], settings: BridgeSettings, frame: Frame, seed: int) -> dict[str, Arm]:
    """Return untrained arms on one frame, in a fixed order."""
    device = frame.sink_D.device
    return {name: make_arm(name, settings, frame, seed).to(device) for name in names}


def trained_arms(arms: dict[str, Arm]) -> dict[str, TrainedArm]:
    """Return those arms that have parameters."""
    return {name: arm for name, arm in arms.items() if isinstance(arm, TrainedArm)}


@dataclasses.dataclass
class Trained:
    """Ledger, loss curve and validation curve per trained arm, as JSON."""

    ledgers: dict[str, dict[str, Any]]
    curves: dict[str, list[dict[str, Any]]]
    observations: dict[str, list[dict[str, Any]]]


def keep_trained(store: StageStore, arms: dict[str, Arm], runs: dict[str, Run], settings: Any, layer: int) -> Trained:
    """Write arms and curves into the store, then commit."""
    trained = Trained(
        {name: run.ledger.to_json() for name, run in runs.items()},
        {name: run.curve for name, run in runs.items()},
        {name: run.observations for name, run in runs.items()},
    )
    save_arms(store.path / ARMS, arms, settings, layer)
    store.write_json(TRAINING, dataclasses.asdict(trained))
    store.commit(TRAINED, {})
    return trained


def find_trained(store: StageStore, device: torch.device | str) -> tuple[dict[str, Arm], Trained] | None:
    """Return what an interrupted attempt trained to the end, or None."""
    if TRAINED not in store.committed():
        return None
    folder = Path(store.path)
    return load_arms(folder / ARMS, device), Trained(**json.loads((folder / TRAINING).read_bytes()))
