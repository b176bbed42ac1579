"""Controls that are no diffusion: deterministic regressor, the ridge alone, the embedding itself.

Letters: B windows, T positions, D hidden size. Ours: the paper has no such controls.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from dihal_core.bridges.context import FEEDFORWARD_RATIO, CausalTransformer
from dihal_core.bridges.frame import Arm, BasedArm, Batch, Frame, TrainedArm
from dihal_core.config import MlpBridgeSettings


def matching_blocks(settings: MlpBridgeSettings, width: int) -> int:
    """Return how many causal blocks give a regressor about the size of the bridge with these settings."""
    C, W, D = settings.context_width, settings.width, width
    block = (4 + 3 * FEEDFORWARD_RATIO) * C * C
    denoiser = 3 * D * W + C * W + settings.blocks * (3 * C * W + 6 * W * W)
    return max(1, settings.context_blocks + round((denoiser - C * D) / block))


class Regressor(TrainedArm):
    """The bridge's causal transformer with more blocks instead of a denoiser: same base, no noise, no time."""

    kind: ClassVar[str] = "regressor"

    def __init__(self, settings: MlpBridgeSettings, frame: Frame):
        super().__init__(frame)
        self.settings = settings
        blocks = matching_blocks(settings, frame.width)
        self.context = CausalTransformer(frame.width, settings.context_width, blocks, settings.context_heads)
        self.out = nn.Linear(settings.context_width, frame.width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def estimate(self, condition_BTD: Tensor, base_BTD: Tensor, steps: int, sequence_B: Tensor, seed: int) -> Tensor:
        """Base plus a learned correction; `steps`, `sequence_B` and `seed` play no part."""
        return base_BTD + self.out(self.context(condition_BTD)).float()

    def row_errors(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Squared error of the estimate; no noise, so every state counts as t = 1."""
        estimate_BTD = batch.base_BTD + self.out(self.context(batch.condition_BTD)).float()
        error_BT = (estimate_BTD - batch.target_BTD).square().mean(dim=-1)
        return error_BT, torch.ones_like(error_BT)

    def objective(self) -> dict[str, float]:
        """Reconstruction alone."""
        return {"diffusion": 0.0, "reconstruction": 1.0, "next_token": 0.0, "distillation": 0.0}

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
