"""The `mlp` bridge: a token-wise diffusion denoiser on a causal context, started from a ridge prediction.

Letters: B windows, T positions, D hidden size, C context width.

Ours: the paper's bridge is a Stable-Diffusion-v1.5-style UNet. This one keeps diffusion, condition and
causal masking and changes the rest: the sample h itself is predicted (a velocity or noise target must
cancel the noise exactly, and the target is nearly a point given the prefix), the process starts at the
ridge prediction instead of noise, and one sample is one token, so that nothing can mix positions
outside the causal context.
"""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dihal_core.bridges.context import CausalTransformer
from dihal_core.bridges.denoiser import TokenDenoiser
from dihal_core.bridges.frame import Batch, Draws, Frame, TrainedArm
from dihal_core.bridges.processes import (
    batch_noise,
    bridge_state,
    posterior_deviation,
    posterior_mean,
    sampler_times,
    training_times,
)
from dihal_core.config import MlpBridgeSettings

TIME_FEATURES = 64
TIME_SCALE = 1000.0


def time_features(t_BT1: Tensor) -> Tensor:
    """Return sinusoidal features (B, T, 64) of times in [0, 1]."""
    half = TIME_FEATURES // 2
    frequency = torch.exp(-math.log(1e4) * torch.arange(half, device=t_BT1.device) / half)
    angle = TIME_SCALE * t_BT1 * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class MlpBridge(TrainedArm):
    """x0-predicting bridge; its output layer starts at zero, so it starts as the ridge itself."""

    kind: ClassVar[str] = "mlp"

    def __init__(self, settings: MlpBridgeSettings, frame: Frame):
        super().__init__(frame)
        self.settings = settings
        C = settings.context_width
        self.context = CausalTransformer(frame.width, C, settings.context_blocks, settings.context_heads)
        self.time_in = nn.Linear(TIME_FEATURES, C)
        self.denoiser = TokenDenoiser(settings, frame.width)

    def denoise(
        self, x_BTD: Tensor, t_BT1: Tensor, context_BTC: Tensor, condition_BTD: Tensor, base_BTD: Tensor
    ) -> Tensor:
        """Return the estimate of h from x_t: base plus a learned correction, float32."""
        modulation_BTC = F.silu(context_BTC + self.time_in(time_features(t_BT1)))
        return base_BTD + self.denoiser(x_BTD, condition_BTD, context_BTC, modulation_BTC)

    def estimate(self, condition_BTD: Tensor, base_BTD: Tensor, steps: int, sequence_B: Tensor, seed: int) -> Tensor:
        """Run the sampler; `steps` = 1 is one deterministic call at t = 1, where x is the base."""
        _, T, D = base_BTD.shape

        def noise(draw: int) -> Tensor:
            return batch_noise(seed, sequence_B, draw, T, D, base_BTD.device)

        return self.decode(self.context(condition_BTD), condition_BTD, base_BTD, steps, noise)

    def decode(
        self, context_BTC: Tensor, condition_BTD: Tensor, base_BTD: Tensor, steps: int, noise: Callable[[int], Tensor]
    ) -> Tensor:
        """Sample each token's state given its context: no operation here mixes positions.

        `noise(draw)` gives the standard normals (B, T, D) of one sampler step.
        """
        B, T, _ = base_BTD.shape
        x_BTD = estimate_BTD = base_BTD
        times = sampler_times(steps)
        for draw, (t, t_next) in enumerate(zip(times, [*times[1:], None], strict=True)):
            t_BT1 = torch.full((B, T, 1), t, device=base_BTD.device)
            estimate_BTD = self.denoise(x_BTD, t_BT1, context_BTC, condition_BTD, base_BTD)
            if t_next is not None:
                deviation = posterior_deviation(t, t_next, self.settings.bridge_noise)
                x_BTD = posterior_mean(x_BTD, estimate_BTD, t, t_next) + deviation * noise(draw)
        return estimate_BTD

    def refiner(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Return (context, condition, base) -> state: `decode` of one step, the time's share computed once."""
        time_C = self.time_in(time_features(torch.ones(1, device=self.time_in.weight.device)))

        def refine(context_BTC: Tensor, condition_BTD: Tensor, base_BTD: Tensor) -> Tensor:
            return base_BTD + self.denoiser(base_BTD, condition_BTD, context_BTC, F.silu(context_BTC + time_C))

        return refine

    def draw(self, mask_BT: Tensor, generator: torch.Generator) -> Draws:
        """Draw t = 1 with the endpoint probability, else uniform times, and the noise."""
        t_BT1 = training_times(generator, (*mask_BT.shape, 1), self.settings.endpoint_probability)
        shape = (*mask_BT.shape, self.frame.width)
        return Draws(t_BT1[..., 0], torch.randn(shape, generator=generator, device=generator.device))

    def errors(self, batch: Batch, draws: Draws) -> Tensor:
        """Squared error of the estimate from x_t."""
        t_BT1 = draws.t_BT[..., None]
        x_BTD = bridge_state(batch.target_BTD, batch.base_BTD, t_BT1, draws.noise_BTD, self.settings.bridge_noise)
        context_BTC = self.context(batch.condition_BTD)
        estimate_BTD = self.denoise(x_BTD, t_BT1, context_BTC, batch.condition_BTD, batch.base_BTD)
        return (estimate_BTD - batch.target_BTD).square().mean(dim=-1)

    def attention_flops(self, positions: int) -> int:
        """Attention of the context transformer."""
        return self.context.attention_flops(positions)
