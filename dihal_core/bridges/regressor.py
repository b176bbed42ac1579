"""Controls that are no diffusion: deterministic regressor, the ridge alone, the embedding itself.

Letters: B windows, T positions, D hidden size. Ours: the paper has no such controls.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dihal_core.bridges.context import CausalTransformer
from dihal_core.bridges.denoiser import TokenDenoiser
from dihal_core.bridges.frame import Arm, BasedArm, Batch, Draws, Frame, TrainedArm
from dihal_core.config import BridgeBase


class Regressor(TrainedArm):
    """The `mlp` bridge without diffusion: same base, context and token network, no noise, no time.

    What it lacks in size is the time input alone, so a difference between the two is the diffusion's.
    """

    kind: ClassVar[str] = "regressor"

    def __init__(self, settings: BridgeBase, frame: Frame):
        super().__init__(frame)
        self.settings = settings
        self.context = CausalTransformer(
            frame.width, settings.context_width, settings.context_blocks, settings.context_heads
        )
        self.denoiser = TokenDenoiser(settings, frame.width)

    def correct(self, condition_BTD: Tensor, base_BTD: Tensor) -> Tensor:
        """Return the base plus a learned correction, float32."""
        return self._refine(self.context(condition_BTD), condition_BTD, base_BTD)

    def _refine(self, context_BTC: Tensor, condition_BTD: Tensor, base_BTD: Tensor) -> Tensor:
        return base_BTD + self.denoiser(base_BTD, condition_BTD, context_BTC, F.silu(context_BTC))

    def estimate(self, condition_BTD: Tensor, base_BTD: Tensor, steps: int, sequence_B: Tensor, seed: int) -> Tensor:
        """Correct the base; `steps`, `sequence_B` and `seed` play no part."""
        return self.correct(condition_BTD, base_BTD)

    def decode(
        self, context_BTC: Tensor, condition_BTD: Tensor, base_BTD: Tensor, steps: int, noise: Callable[[int], Tensor]
    ) -> Tensor:
        """Correct each token's base given its context; `steps` and `noise` play no part."""
        return self._refine(context_BTC, condition_BTD, base_BTD)

    def refiner(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Return (context, condition, base) -> state."""
        return self._refine

    def draw(self, mask_BT: Tensor, generator: torch.Generator) -> Draws:
        """Draw nothing: no noise, and every state counts as t = 1."""
        return Draws.without_noise(torch.ones(mask_BT.shape, device=mask_BT.device))

    def errors(self, batch: Batch, draws: Draws) -> Tensor:
        """Squared error of the estimate."""
        return (self.correct(batch.condition_BTD, batch.base_BTD) - batch.target_BTD).square().mean(dim=-1)

    def direct_shares(self) -> dict[str, float]:
        """Every state is reconstruction."""
        return {"diffusion": 0.0, "reconstruction": 1.0}

    def direct_factors(self) -> dict[str, float]:
        """Weigh it as the bridge weighs both of its direct terms together, so that the terms beside them weigh alike."""
        factors, shares = super().direct_factors(), super().direct_shares()
        together = sum(factors[name] * share for name, share in shares.items())
        return {"diffusion": 0.0, "reconstruction": together}

    def attention_flops(self, positions: int) -> int:
        """Attention of the transformer."""
        return self.context.attention_flops(positions)


class RidgeArm(BasedArm):
    """The frozen base that bridge and regressor start from."""

    kind: ClassVar[str] = "ridge"

    def estimate(self, condition_BTD: Tensor, base_BTD: Tensor, steps: int, sequence_B: Tensor, seed: int) -> Tensor:
        """Return the base."""
        return base_BTD


class SkipArm(Arm):
    """The embedding output put straight into the layer, as if the blocks below were the identity."""

    kind: ClassVar[str] = "skip"

    @torch.no_grad()
    def predict(
        self, embeddings_BTD: Tensor, steps: int = 1, sequence_B: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        """Return the embeddings with the constant state at position 0, as every arm has it."""
        hidden_BTD = embeddings_BTD.to(torch.float32, copy=True)
        hidden_BTD[:, 0] = self.frame.sink_D
        return hidden_BTD
