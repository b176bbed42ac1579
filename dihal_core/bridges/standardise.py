"""Per-dimension standardisation of hidden states, and the constant state of position 0.

Letters: B windows, T positions, D hidden size, N rows.

In a causal model the state of the first position depends on the first token alone. Every window
starts with the separator, so that state is one constant per layer (an attention sink whose norm is
up to a thousand times larger): it is stored and written back verbatim, and statistics, losses and
metrics start at position 1. Ours: the paper states neither normalisation nor its treatment of sinks.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from dihal_core.errors import NumericsError

SCALE_FLOOR = 1e-6
"""Smallest scale, relative to the median scale: a dimension that never moves is predicted by its mean."""


def state_mask(lengths_B: Tensor, positions: int) -> Tensor:
    """Mark the states that count, 1 <= t < length: shape (B, T), bool."""
    t_T = torch.arange(positions, device=lengths_B.device)
    return (t_T >= 1) & (t_T < lengths_B[:, None])


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Mean and scale of each dimension over N rows, float64."""

    mean_D: np.ndarray
    scale_D: np.ndarray
    rows: int


def fit_statistics(row_chunks: Iterable[Tensor], what: str) -> Statistics:
    """Accumulate mean and standard deviation of rows (N, D) in float64.

    Raises
    ------
    NumericsError
        If there are fewer than two rows, a value is not finite, or no dimension varies.
    """
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    rows = 0
    for chunk_ND in row_chunks:
        wide_ND = chunk_ND.double()
        rows += len(wide_ND)
        total = total + wide_ND.sum(0)
        squares = squares + wide_ND.square_().sum(0)
    if rows < 2 or not isinstance(total, Tensor) or not isinstance(squares, Tensor):
        raise NumericsError(f"{what}: statistics need at least 2 states, got {rows}; use more training windows")
    mean_D = total / rows
    scale_D = (squares / rows - mean_D.square()).clamp_min(0).sqrt()
    if not bool(torch.isfinite(scale_D).all() and torch.isfinite(mean_D).all()):
        raise NumericsError(f"{what}: a state is not finite; check the backbone's dtype and the activations")
    floor = SCALE_FLOOR * float(scale_D.median())
    if float(scale_D.max()) <= 0:
        raise NumericsError(f"{what}: no dimension varies over {rows} states; use more, or more varied, windows")
    scale_D = scale_D.clamp_min(floor if floor > 0 else SCALE_FLOOR * float(scale_D.max()))
    return Statistics(mean_D.cpu().numpy(), scale_D.cpu().numpy(), rows)


class Standardiser(nn.Module):
    """Frozen affine map between backbone scale and standardised coordinates."""

    mean_D: Tensor
    scale_D: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("scale_D", torch.ones(width))

    @classmethod
    def of(cls, statistics: Statistics) -> "Standardiser":
        """Return the map of fitted statistics."""
        made = cls(len(statistics.mean_D))
        made.mean_D.copy_(torch.from_numpy(statistics.mean_D))
        made.scale_D.copy_(torch.from_numpy(statistics.scale_D))
        return made

    def forward(self, raw: Tensor) -> Tensor:
        """Backbone scale (any dtype) -> standardised, float32."""
        return (raw.float() - self.mean_D) / self.scale_D

    def inverse(self, standardised: Tensor) -> Tensor:
        """Standardised -> backbone scale, float32."""
        return standardised.float() * self.scale_D + self.mean_D
