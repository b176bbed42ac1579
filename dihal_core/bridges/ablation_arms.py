"""What the comparison of architectures compares: one line per arm. Imports no torch.

The registry is the list: flow, table, bench and contract tests iterate over it. Ours: of the paper's
appendix D.1 only the question is known, not the arms.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from dihal_core.config import AblationSettings, BridgeBase, MlpBridgeSettings, UnetBridgeSettings
from dihal_core.errors import ConfigError, nearest

SettingsOf = Callable[[BridgeBase, AblationSettings], BridgeBase]
"""From the study's bridge and the comparison's settings to the settings of one arm."""


def as_mlp(bridge: BridgeBase, _: AblationSettings) -> BridgeBase:
    """Return the study's bridge if it is an `mlp`, else an `mlp` with what all bridges share."""
    return bridge if isinstance(bridge, MlpBridgeSettings) else MlpBridgeSettings(**_shared(bridge))


def as_unet(bridge: BridgeBase, ablation: AblationSettings) -> BridgeBase:
    """Return the study's bridge if it is a `unet`, else the comparison's with what all bridges share."""
    return bridge if isinstance(bridge, UnetBridgeSettings) else ablation.unet.model_copy(update=_shared(bridge))


def with_ridge(tokens: int) -> SettingsOf:
    """Return settings whose ridge sees `tokens` embedding states."""
    return lambda bridge, ablation: as_mlp(bridge, ablation).model_copy(update={"ridge_tokens": tokens})


def _shared(bridge: BridgeBase) -> dict[str, Any]:
    return {name: getattr(bridge, name) for name in BridgeBase.model_fields}


@dataclasses.dataclass(frozen=True)
class AblationArm:
    """One arm of the comparison."""

    label: str
    arm: str
    """The name under which `dihal_core.bridges.arms.make_arm` makes it."""
    settings: SettingsOf = as_mlp
    diffusion: bool = False
    """It has a sampler: evaluated at every number of sampler steps, and no control."""
    trained: bool = False
    """It takes gradient steps, so it is trained once per seed; others have one result."""


ABLATION_ARMS: dict[str, AblationArm] = {
    "ridge-3": AblationArm("ridge map, 3 tokens", "ridge", with_ridge(3)),
    "ridge-1": AblationArm("ridge map, 1 token", "ridge", with_ridge(1)),
    "ridge-3-all": AblationArm("ridge map, 3 tokens, all windows", "ridge-all", with_ridge(3)),
    "ridge-1-all": AblationArm("ridge map, 1 token, all windows", "ridge-all", with_ridge(1)),
    "table": AblationArm("per-token table", "table"),
    "skip": AblationArm("skip (embedding only)", "skip"),
    "mlp": AblationArm("fast bridge", "bridge", as_mlp, diffusion=True, trained=True),
    "regressor": AblationArm("regressor of its size, no diffusion", "regressor", as_mlp, trained=True),
    "unet": AblationArm("UNet bridge", "bridge", as_unet, diffusion=True, trained=True),
}
REFERENCE = "mlp"
"""The arm that every other one is compared with, fixed beforehand."""
RIDGE = "ridge-3"
"""The control whose KL is the unit of the ratios: the base that bridges start from, fitted on some windows."""
RIDGE_ALL = "ridge-3-all"
"""The same map fitted on every window that the trained arms see: the unit of the second ratio."""


def chosen_arms(ablation: AblationSettings) -> tuple[str, ...]:
    """Return the arms that are compared, in registry order.

    Raises
    ------
    ConfigError
        For an arm that is not registered.
    """
    wanted = ablation.arms or tuple(ABLATION_ARMS)
    for name in wanted:
        if name not in ABLATION_ARMS:
            raise ConfigError(
                f"ablation.arms names {name!r}{nearest(name, ABLATION_ARMS)}; choose from {', '.join(ABLATION_ARMS)}"
            )
    return tuple(name for name in ABLATION_ARMS if name in wanted)


def ablation_units(ablation: AblationSettings) -> tuple[str, ...]:
    """Return `<arm>-s<seed>` of every training, all arms of one seed before the next."""
    chosen = chosen_arms(ablation)
    return tuple(
        f"{name}-s{seed}"
        for seed in range(ablation.seeds)
        for name in chosen
        if seed == 0 or ABLATION_ARMS[name].trained
    )


def parse_unit(unit: str) -> tuple[str, int]:
    """Return arm and seed of a unit's name.

    Raises
    ------
    ConfigError
        For any other name.
    """
    name, _, seed = unit.rpartition("-s")
    if name not in ABLATION_ARMS or not seed.isdecimal():
        raise ConfigError(f"{unit!r} is no unit of the comparison; units are <arm>-s<seed>, e.g. {REFERENCE}-s0")
    return name, int(seed)


def row_name(arm: str, sampling_steps: int) -> str:
    """Return the row of the table: `mlp@4`, or the arm itself where it has no sampler."""
    return f"{arm}@{sampling_steps}" if ABLATION_ARMS[arm].diffusion else arm
