"""Bridge architectures by `kind`: one file and one line each. Contract tests iterate over it."""

from collections.abc import Callable, Mapping
from typing import Any

from dihal_core.bridges.frame import Frame, TrainedArm
from dihal_core.bridges.mlp import MlpBridge
from dihal_core.bridges.unet import UnetBridge
from dihal_core.config import BridgeSettings
from dihal_core.errors import ConfigError, nearest

BRIDGES: dict[str, Callable[..., TrainedArm]] = {"mlp": MlpBridge, "unet": UnetBridge}


def make_bridge(settings: BridgeSettings, frame: Frame, structure: Mapping[str, Any] | None = None) -> TrainedArm:
    """Return an untrained bridge of the kind that `settings` name.

    `structure` is what `Arm.structure` said of a saved one, whose weights are loaded next.

    Raises
    ------
    ConfigError
        For an unknown kind.
    """
    if settings.kind not in BRIDGES:
        raise ConfigError(
            f"unknown bridge {settings.kind!r}{nearest(settings.kind, BRIDGES)}; choose one of {', '.join(BRIDGES)}"
        )
    make = BRIDGES[settings.kind]
    return make(settings, frame, structure) if structure else make(settings, frame)
