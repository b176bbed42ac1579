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
from dihal_core.files import dump_json, write_atomically
from dihal_core.store import StageStore
from dihal_core.training.runs import Run

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


def seed_folder(store: StageStore, index: int) -> Path:
    """Return where training number `index` of a store keeps its files; the first has the store itself."""
    return store.path / f"seeds/{index}" if index else store.path


def _commit_of(index: int) -> str:
    return f"{TRAINED}-{index}" if index else TRAINED


def keep_trained(
    store: StageStore,
    arms: dict[str, Arm],
    runs: dict[str, Run],
    settings: Any,
    layer: int,
    index: int = 0,
    write: bool = True,
) -> Trained:
    """Write arms and curves into the store, then commit; `index` counts trainings with further seeds.

    With `write` False (a process that is not the main one) nothing is written.
    """
    trained = Trained(
        {name: run.ledger.to_json() for name, run in runs.items()},
        {name: run.curve for name, run in runs.items()},
        {name: run.observations for name, run in runs.items()},
    )
    if not write:
        return trained
    folder = seed_folder(store, index)
    save_arms(folder / ARMS, arms, settings, layer)
    write_atomically(folder / TRAINING, dump_json(dataclasses.asdict(trained)))
    store.commit(_commit_of(index), {})
    return trained


def find_trained(
    store: StageStore, device: torch.device | str, index: int = 0
) -> tuple[dict[str, Arm], Trained] | None:
    """Return what an interrupted attempt trained to the end, or None."""
    if _commit_of(index) not in store.committed():
        return None
    folder = seed_folder(store, index)
    return load_arms(folder / ARMS, device), Trained(**json.loads((folder / TRAINING).read_bytes()))
