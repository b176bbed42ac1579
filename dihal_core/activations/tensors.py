"""Torch tensors to and from the bit patterns a store holds."""

import numpy as np
import torch


def to_bits(states: torch.Tensor) -> np.ndarray:
    """Return uint16 bfloat16 patterns in C order; other dtypes are rounded to nearest, ties to even."""
    return states.detach().to(device="cpu", dtype=torch.bfloat16).contiguous().view(torch.int16).numpy().view(np.uint16)


def from_bits(bits: np.ndarray) -> torch.Tensor:
    """Return the bfloat16 tensor of uint16 patterns (no copy if `bits` is contiguous and writable)."""
    return torch.from_numpy(np.require(bits, requirements=["C", "W"]).view(np.int16)).view(torch.bfloat16)
