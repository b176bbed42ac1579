"""The per-token network of bridge and regressor: corrects the ridge prediction of one token's state.

Letters: B windows, T positions, D hidden size, W width, C context width.

One sample is one token: nothing here mixes positions, so causality rests on the context alone.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from dihal_core.bridges.context import NORM_EPS
from dihal_core.config import BridgeBase

HIDDEN_RATIO = 2


class ModulatedBlock(nn.Module):
    """Gated feed-forward whose norm is shifted, scaled and gated by the condition (AdaLN, as DiT and MAR)."""

    def __init__(self, width: int, condition_width: int):
        super().__init__()
        self.modulation = nn.Linear(condition_width, 3 * width)
        self.gate_up = nn.Linear(width, 2 * HIDDEN_RATIO * width, bias=False)
        self.down = nn.Linear(HIDDEN_RATIO * width, width, bias=False)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x_BTW: Tensor, modulation_BTC: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(modulation_BTC).chunk(3, dim=-1)
        normed = F.rms_norm(x_BTW, x_BTW.shape[-1:], eps=NORM_EPS) * (1 + scale) + shift
        left, right = self.gate_up(normed).chunk(2, dim=-1)
        return x_BTW + (1 + gate) * self.down(F.silu(left) * right)


class TokenDenoiser(nn.Module):
    """State, condition and context in, correction out; the output layer starts at zero."""

    def __init__(self, settings: BridgeBase, hidden_size: int):
        super().__init__()
        D, W, C = hidden_size, settings.width, settings.context_width
        self.state_in = nn.Linear(D, W)
        self.condition_in = nn.Linear(D, W, bias=False)
        self.context_in = nn.Linear(C, W, bias=False)
        self.blocks = nn.ModuleList(ModulatedBlock(W, C) for _ in range(settings.blocks))
        self.out = nn.Linear(W, D)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_BTD: Tensor, condition_BTD: Tensor, context_BTC: Tensor, modulation_BTC: Tensor) -> Tensor:
        y_BTW = self.state_in(x_BTD) + self.condition_in(condition_BTD) + self.context_in(context_BTC)
        for block in self.blocks:
            y_BTW = block(y_BTW, modulation_BTC)
        return self.out(F.rms_norm(y_BTW, y_BTW.shape[-1:], eps=NORM_EPS)).float()
