"""Does the future leak into the past? Changing tokens after a cut must change nothing before it, exactly.

Letters: B windows, T positions, D hidden size.

A perplexity means nothing for a model that sees the token it predicts, so the probe runs three times
in a study: on random weights (all of them non-zero: zero-initialised layers would hide a leak), on
trained weights, and on a module that leaks and must be caught.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dihal_core.bridges.arms import make_arm
from dihal_core.bridges.frame import Arm, Frame
from dihal_core.config import BridgeSettings
from dihal_core.errors import ConfigError
from dihal_core.seeding import torch_seed

Predict = Callable[[Tensor], Tensor]
"""embeddings_BTD -> hidden_BTD."""


@torch.no_grad()
def largest_leak(predict: Predict, embeddings_BTD: Tensor, cut: int, seed: int = 0) -> float:
    """Return the largest change at positions before `cut` when the embeddings from `cut` on are replaced.

    Three replacements are tried: other values of the same scale, the positions in reverse order, and
    a hundredfold magnification. 0.0 means that no bit changed; a value that is not finite counts as inf.

    Parameters
    ----------
    predict : callable
        embeddings (B, T, D) -> states (B, T, D), in evaluation mode; its noise may not depend on its
        input. Bind sampler steps, sequence identities and seed beforehand.
    embeddings_BTD : Tensor of shape (B, T, D)
    cut : int
        First position that is changed, 1 <= cut < T.

    Raises
    ------
    ConfigError
        If `cut` leaves no position on one side.
    """
    positions = embeddings_BTD.shape[1]
    if not 1 <= cut < positions:
        raise ConfigError(f"cut {cut} is outside 1..{positions - 1} of windows with {positions} positions")
    generator = torch.Generator().manual_seed(torch_seed(seed, "leak probe", cut))
    before_BTD = predict(embeddings_BTD)[:, :cut]
    future_BTD = embeddings_BTD[:, cut:]
    fresh_BTD = torch.randn(future_BTD.shape, generator=generator).to(future_BTD) * embeddings_BTD.float().std()
    largest = 0.0
    for replacement_BTD in (fresh_BTD, future_BTD.flip(1), 100 * future_BTD):
        changed_BTD = torch.cat([embeddings_BTD[:, :cut], replacement_BTD.to(embeddings_BTD.dtype)], dim=1)
        after_BTD = predict(changed_BTD)[:, :cut]
        change = float((after_BTD - before_BTD).abs().max())
        largest = max(largest, change if math.isfinite(change) else math.inf)
    return largest


class LeakyControl(nn.Module):
    """A module that leaks: GroupNorm over (channels x tokens) takes its statistics from the whole window."""

    weight_DD: Tensor

    def __init__(self, hidden_size: int, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(torch_seed(seed, "leaky control"))
        self.register_buffer("weight_DD", torch.randn(hidden_size, hidden_size, generator=generator))

    @torch.no_grad()
    def forward(self, embeddings_BTD: Tensor) -> Tensor:
        """Normalise each window over all its positions, then mix dimensions."""
        normed_BDT = F.group_norm(embeddings_BTD.float().transpose(1, 2), num_groups=1)
        return normed_BDT.transpose(1, 2) @ self.weight_DD

    predict = forward


def random_arm(settings: BridgeSettings, hidden_size: int, seed: int, name: str = "bridge") -> Arm:
    """Return an arm whose every parameter and frozen tensor was drawn anew, none of them zero.

    Fresh bridges end in a zero-initialised layer and would pass any probe as the ridge they start from.
    """
    arm = make_arm(name, settings, Frame(hidden_size, settings.ridge_tokens), seed)
    generator = torch.Generator().manual_seed(torch_seed(seed, "random arm", name))
    with torch.no_grad():
        for tensor in [*arm.parameters(), *arm.buffers()]:
            fan_in = tensor.shape[-1] if tensor.ndim > 1 else 1
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / fan_in**0.5)
        for standardiser in (arm.frame.condition, arm.frame.target):
            standardiser.scale_D.abs_().add_(0.5)
    return arm.eval().requires_grad_(False)
