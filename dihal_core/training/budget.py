"""Ledger of one arm's training: tokens, steps, parameters, FLOPs.

FLOPs are counted, not measured: 2 per parameter of each weight matrix and token forward, three times
that with the backward pass (Kaplan et al. 2020, arXiv 2001.08361, section 2.1), attention scores and
mixing on top, the frozen ridge base forward only, and what the optimiser spends on matrices. A denoiser
that is asked at some positions alone counts there alone; a frozen autoencoder around it counts twice its
forward pass, since gradients pass through it and stop at no weight of its own. The bridge's second pass for
the losses through the upper blocks counts like the first. Norms, activations and the backbone's own forward
are left out. Seconds are kept apart from it: they belong to a run, not to a result.
"""

import dataclasses
from typing import Any

from dihal_core.bridges.frame import TrainedArm

NEWTON_SCHULZ_PRODUCTS = (4, 2)
"""FLOPs of one Newton-Schulz iteration on an m x n matrix, m <= n: 4 m^2 n + 2 m^3."""


def forward_flops(arm: TrainedArm, positions: int) -> int:
    """Return FLOPs per token of one forward pass of the trained part, every state drawn."""
    return 2 * sum(p.numel() for p in arm.parameters() if p.ndim == 2) + arm.attention_flops(positions)


def newton_schulz_flops(rows: int, columns: int, iterations: int) -> int:
    """Return FLOPs of orthogonalising one matrix."""
    small, large = sorted((rows, columns))
    wide, cube = NEWTON_SCHULZ_PRODUCTS
    return iterations * (wide * small**2 * large + cube * small**3)


@dataclasses.dataclass
class Ledger:
    """What one arm has cost so far. `tokens` are states that entered the loss."""

    parameters: int
    token_flops: int
    """Training FLOPs per position, padding included: it is computed like any other."""
    step_flops: int
    """Optimiser FLOPs per step."""
    state_flops: int = 0
    """Training FLOPs per drawn state, beside those of its position."""
    ridge_flops: int = 0
    """The part of `token_flops` that is spent once per batch, however often the arm passes over it."""
    steps: int = 0
    tokens: int = 0
    flops: int = 0
    halvings: list[dict[str, int]] = dataclasses.field(default_factory=list)
    """Where memory ran out: `step`, and the micro-batch `from` which it was halved `to`."""

    @classmethod
    def of(cls, arm: TrainedArm, positions: int, muon_iterations: int) -> "Ledger":
        """Open the ledger of `arm`; `muon_iterations` is 0 without Muon."""
        ridge = 2 * arm.frame.ridge.weight_FD.numel()
        matrices = [p for p in arm.parameters() if p.ndim == 2]
        drawn, frozen = arm.state_flops()
        return cls(
            parameters=sum(p.numel() for p in arm.parameters()),
            token_flops=3 * (forward_flops(arm, positions) - drawn) + ridge,
            state_flops=3 * drawn + 2 * frozen,
            ridge_flops=ridge,
            step_flops=sum(newton_schulz_flops(p.shape[0], p.shape[1], muon_iterations) for p in matrices),
        )

    def add_step(self, tokens: int, positions: int) -> None:
        """Enter one step on `positions` positions of which `tokens` were drawn and counted."""
        self.steps += 1
        self.tokens += tokens
        self.flops += positions * self.token_flops + tokens * self.state_flops + self.step_flops

    def add_pass(self, drawn: int, positions: int) -> None:
        """Enter a further pass of the same step over some of its windows, `drawn` of whose states were drawn."""
        self.flops += positions * (self.token_flops - self.ridge_flops) + drawn * self.state_flops

    def to_json(self) -> dict[str, Any]:
        """Return what results carry."""
        costs = {"parameters": self.parameters, "steps": self.steps, "tokens": self.tokens, "flops": self.flops}
        return {**costs, "out_of_memory": self.halvings} if self.halvings else costs
