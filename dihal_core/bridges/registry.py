"""Bridge architectures by `kind`: one file and one line each. Contract tests iterate over it."""

from collections.abc import Callable

from dihal_core.bridges.frame import Frame, TrainedArm
from dihal_core.bridges.mlp import MlpBridge
from dihal_core.config import BridgeSettings, MlpBridgeSettings
from dihal_core.errors import ConfigError, nearest

BRIDGES: dict[str, Callable[[MlpBridgeSettings, Frame], TrainedArm]] = {"mlp": MlpBridge}


def make_bridge(settings: BridgeSettings, frame: Frame) -> TrainedArm:
    """Return an untrained bridge of the kind that `settings` name.

    Raises
    ------
    ConfigError
        For an unknown kind.
    """
    if settings.kind not in BRIDGES:
        raise ConfigError(
            f"unknown bridge {settings.kind!r}{nearest(settings.kind, BRIDGES)}; choose one of {', '.join(BRIDGES)}"
        )
    return BRIDGES[settings.kind](settings, frame)
