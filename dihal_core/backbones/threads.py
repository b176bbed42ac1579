"""Intra-op threads and the device: both change bits of bfloat16 states, so both are settings."""

import torch

from dihal_core.errors import ConfigError, ResourceError


def use_threads(count: int) -> None:
    """Let the calling thread's tensor operations use `count` cores. Call where a stage starts.

    Raises
    ------
    ConfigError
        If `count` is below 1.
    """
    if count < 1:
        raise ConfigError(f"threads {count} is below 1; give the number of cores one forward pass may use")
    torch.set_num_threads(count)


def resolve_device(device: str) -> str:
    """Return `cuda` or `cpu` for `compute.device`: auto, cpu or cuda.

    Raises
    ------
    ResourceError
        If cuda is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if available else "cpu"
    if device == "cuda" and not available:
        raise ResourceError(
            "compute.device is cuda but torch sees no CUDA device; set compute.device=cpu or install torch for CUDA"
        )
    return device
