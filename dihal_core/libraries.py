"""Libraries whose versions enter a key only where the settings use them. Imports no torch.

What every run of a stage uses stands in `dihal_core.stages`.
"""

from dihal_core.bridges.origins import built_bridge
from dihal_core.config import StudySettings, UnetBridgeSettings
from dihal_core.stages import STAGES


def further_libraries(stage: str, settings: StudySettings, unit: str | int | None) -> tuple[str, ...]:
    """Return what one unit of `stage` uses beside `Stage.libraries`.

    diffusers computes the UNet, its schedule and the VAE; accelerate moves states between the devices of a
    spread backbone and sums the gradients of several processes. A store of the `mlp` bridge in one process
    depends on neither.
    """
    found = []
    if isinstance(built_bridge(stage, settings, unit), UnetBridgeSettings):
        found.append("diffusers")
    runs_backbone = "torch" in STAGES[stage].libraries and "backbone" in STAGES[stage].reads
    training = {"sweep": settings.sweep.training, "replace": settings.replace.training}.get(stage)
    if (runs_backbone and settings.backbone.device_map is not None) or (training and training.processes > 1):
        found.append("accelerate")
    return tuple(found)
