"""The arms of one layer together: built, saved and loaded. Names: bridge, regressor, ridge, ridge-1, ridge-all, skip, table.

Weights are safetensors, settings JSON; nothing is pickled. The frozen frame is stored once.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from dihal_core.bridges.building import BUILDING
from dihal_core.bridges.frame import Arm, BasedArm, Frame
from dihal_core.bridges.registry import make_bridge
from dihal_core.bridges.regressor import Regressor, RidgeArm, SkipArm
from dihal_core.bridges.table import TableArm
from dihal_core.bridges.wide_ridge import NarrowRidgeArm, WideRidgeArm
from dihal_core.config import BridgeSettings
from dihal_core.errors import ArtifactError, AssetError, ConfigError, nearest
from dihal_core.files import dump_json, write_atomically
from dihal_core.seeding import torch_seed

DESCRIPTION = "arms.json"
FRAME = "frame.safetensors"


def make_arm(
    name: str, settings: BridgeSettings, frame: Frame, seed: int, structure: Mapping[str, Any] | None = None
) -> Arm:
    """Return a fresh arm; the weights of a trained one depend on (seed, name) only, not on the layer.

    `structure` is what `Arm.structure` said of a saved arm, whose weights are loaded next.

    Raises
    ------
    ConfigError
        For an unknown name.
    AssetError
        If published weights it needs are not to be had, or are not those of `structure`.
    """
    makers: dict[str, Callable[[], Arm]] = {
        "bridge": lambda: make_bridge(settings, frame, structure),
        "regressor": lambda: Regressor(settings, frame),
        "ridge": lambda: RidgeArm(frame),
        "ridge-all": lambda: WideRidgeArm(frame),
        "ridge-1": lambda: NarrowRidgeArm(frame),
        "skip": lambda: SkipArm(frame),
        "table": lambda: TableArm(frame),
    }
    if name not in makers:
        raise ConfigError(f"unknown arm {name!r}{nearest(name, makers)}; choose one of {', '.join(makers)}")
    with BUILDING:
        arm = makers[name]()
    _draw_weights(arm, torch.Generator().manual_seed(torch_seed(seed, "arm weights", name)))
    return arm.eval()


@torch.no_grad()
def _draw_weights(arm: Arm, generator: torch.Generator) -> None:
    """Draw linear and convolutional layers anew from `generator`; those that start at zero or from a file stay.

    Constructors draw from torch's global generator, which layers trained side by side share.
    """
    for module in arm.modules():
        if not isinstance(module, nn.Linear | nn.Conv2d) or getattr(module, "keeps_weights", False):
            continue
        if bool(module.weight.any()):
            bound = module.weight[0].numel() ** -0.5
            for parameter in module.parameters():
                parameter.uniform_(-bound, bound, generator=generator)


def predict_all(arms: Mapping[str, Arm], embeddings_BTD: Tensor) -> dict[str, Tensor]:
    """Return what `predict` of each arm returns with one sampler step, computing condition and base once.

    The arms must share one frame.
    """
    frame = next(iter(arms.values())).frame
    condition_BTD = frame.condition(embeddings_BTD)
    base_BTD = frame.ridge(condition_BTD)
    sequence_B = torch.arange(len(embeddings_BTD))
    with torch.no_grad():
        return {
            name: frame.finish(arm.estimate(condition_BTD, base_BTD, 1, sequence_B, 0))
            if isinstance(arm, BasedArm)
            else arm.predict(embeddings_BTD)
            for name, arm in arms.items()
        }


def own_state(arm: Arm) -> dict[str, Tensor]:
    """Return the tensors of an arm that are not its frame's."""
    return {name: value for name, value in arm.state_dict().items() if not name.startswith("frame.")}


def save_arms(folder: Path, arms: dict[str, Arm], settings: BridgeSettings, layer: int) -> None:
    """Write the arms of `layer` into `folder`, each file atomically and the description last.

    Same arms, same bytes.
    """
    frame = next(iter(arms.values())).frame
    write_atomically(folder / FRAME, _packed(frame.state_dict()))
    for name, arm in arms.items():
        if own_state(arm):
            write_atomically(folder / f"{name}.safetensors", _packed(own_state(arm)))
    description = {
        "layer": layer,
        "hidden_size": frame.width,
        "bridge": settings.model_dump(mode="json"),
        "arms": sorted(arms),
    }
    structures = {name: arm.structure() for name, arm in sorted(arms.items()) if arm.structure()}
    if structures:
        description["structures"] = structures
    write_atomically(folder / DESCRIPTION, dump_json(description))


def load_arms(folder: Path, device: str | torch.device = "cpu") -> dict[str, Arm]:
    """Return the arms saved in `folder`, in eval mode on `device`, without gradients.

    Raises
    ------
    ArtifactError
        If a file is missing, unreadable or does not fit the description.
    AssetError
        If a frozen autoencoder that the arms were trained with is not to be had, or is another one by now.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_bytes())
        settings = TypeAdapter(BridgeSettings).validate_python(description["bridge"])
        frame = Frame(description["hidden_size"], settings.ridge_tokens)
        frame.load_state_dict(safetensors.torch.load_file(folder / FRAME))
        arms = {}
        for name in description["arms"]:
            arm = make_arm(name, settings, frame, 0, description.get("structures", {}).get(name))
            if own_state(arm):
                tensors = safetensors.torch.load_file(folder / f"{name}.safetensors")
                arm.load_state_dict({**arm.state_dict(), **_exactly(tensors, own_state(arm), name)})
            arms[name] = arm.to(device).requires_grad_(False)
    except AssetError:
        raise  # the arms are as they were saved: nothing here is to be discarded
    except (OSError, KeyError, ValueError, RuntimeError, ValidationError, SafetensorError) as error:
        raise ArtifactError(
            f"bridge weights in {folder} cannot be used ({type(error).__name__}: {error}); "
            "run the study again, it recomputes the stage that trains them"
        ) from error
    return arms


def _packed(tensors: dict[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})


def _exactly(found: dict[str, Tensor], wanted: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    if found.keys() != wanted.keys():
        odd = sorted(found.keys() ^ wanted.keys())
        raise ValueError(f"{name}.safetensors and its description disagree on {odd[0]}")
    return found
