"""Putting a backbone on its device, or spreading it over several GPUs with accelerate.

Spreading loads the model into host memory first, so that must hold it once. Whole blocks are placed;
accelerate moves states between devices. Proven on one machine without GPUs: the hooks accelerate adds,
on CPU. Not tested: two real GPUs.
"""

from collections import Counter
from typing import Any

from torch import nn

from dihal_core.errors import ConfigError, ResourceError


def place(model: Any, device: str, device_map: str | dict[str, int | str] | None) -> nn.Module:
    """Return `model` on `device`, or spread as `device_map` says (None, `auto`, `balanced`, `sequential`, or a dict).

    Raises
    ------
    ConfigError
        If a dict does not name a device for every parameter, or names one that does not exist.
    ResourceError
        If the model does not fit on the GPUs: nothing is offloaded, a dump would crawl.
    """
    if device_map is None:
        return model.to(device)
    from accelerate import dispatch_model

    named: dict[str, Any] = dict(device_map) if isinstance(device_map, dict) else _infer(model, device_map)
    kinds = Counter("cpu" if str(where) in ("cpu", "disk") else "gpu" for where in named.values())
    if "disk" in named.values() or (kinds["gpu"] and kinds["cpu"]):
        outside = [name or "the model" for name, where in named.items() if str(where) in ("cpu", "disk")]
        raise ResourceError(
            f"backbone.device_map leaves {len(outside)} parts such as {outside[0]} off the GPUs, and offloading is not "
            "supported; use more or larger GPUs, backbone.dtype=bfloat16, or compute.device=cpu with device_map null"
        )
    try:
        return dispatch_model(model, device_map=named)
    except Exception as error:
        raise ConfigError(
            f"backbone.device_map {device_map!r} cannot be used ({str(error).strip().splitlines()[0][:200]}); name a "
            'device for every module, e.g. {"": "cpu"}, or use auto'
        ) from error


def _infer(model: Any, strategy: str) -> dict[str, Any]:
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = list(getattr(model, "_no_split_modules", None) or [])
    model.tie_weights()
    memory = None
    if strategy != "sequential":
        memory = get_balanced_memory(model, no_split_module_classes=whole, dtype=model.dtype)
    return dict(infer_auto_device_map(model, max_memory=memory, no_split_module_classes=whole, dtype=model.dtype))
