"""Causal transformer over the condition states: what a token-wise denoiser knows about its prefix.

Letters: B windows, T positions, W width, H heads.
Pre-norm blocks with rotary positions and SwiGLU, as in the backbones themselves. Ours: the paper
conditions on the embedding output without saying how it is encoded.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dihal_core.errors import ConfigError

FEEDFORWARD_RATIO = 3
ROTARY_BASE = 10_000.0
NORM_EPS = 1e-6
PLAIN_ATTENTION_POSITIONS = 256
"""Up to this many positions the scores are small enough to be held."""


class RMSNorm(nn.Module):
    """Root-mean-square norm per token: unlike GroupNorm or BatchNorm it can mix no positions."""

    def __init__(self, width: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.gain.shape, self.gain.to(x.dtype), NORM_EPS)


def rotary_at(positions: Tensor, head_width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines at integer `positions` (..), each of shape (.., head width / 2)."""
    frequency = ROTARY_BASE ** (-torch.arange(0, head_width, 2, device=like.device) / head_width)
    angle = positions[..., None] * frequency
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def rotary_table(positions: int, head_width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of shape (T, head width / 2)."""
    return rotary_at(torch.arange(positions, device=like.device), head_width, like)


def rotate(x_BHTK: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the halves of each head by its position's angles."""
    cos, sin = table
    left, right = x_BHTK.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1)


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax attention of (B, H, T, K) tensors to the own and earlier positions.

    On CPUs short windows use plain products: three times faster than the fused kernel with its backward.
    Later positions have a weight of exactly zero either way.
    """
    T, K = query.shape[-2:]
    if query.device.type != "cpu" or T > PLAIN_ATTENTION_POSITIONS:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    future_TT = torch.full((T, T), float("-inf"), dtype=query.dtype).triu(1)
    return torch.softmax((query * K**-0.5) @ key.transpose(-2, -1) + future_TT, dim=-1) @ value


class CausalBlock(nn.Module):
    """Attention to the own and earlier positions, then a gated feed-forward."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention_norm = RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.feedforward_norm = RMSNorm(width)
        self.gate_up = nn.Linear(width, 2 * FEEDFORWARD_RATIO * width, bias=False)
        self.down = nn.Linear(FEEDFORWARD_RATIO * width, width, bias=False)

    def forward(self, x_BTW: Tensor) -> Tensor:
        B, T, W = x_BTW.shape
        qkv = self.qkv(self.attention_norm(x_BTW)).view(B, T, 3, self.heads, W // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        table = rotary_table(T, W // self.heads, query)
        mixed = causal_attention(rotate(query, table), rotate(key, table), value)
        x_BTW = x_BTW + self.attention_out(mixed.transpose(1, 2).reshape(B, T, W))
        gate, up = self.gate_up(self.feedforward_norm(x_BTW)).chunk(2, dim=-1)
        return x_BTW + self.down(F.silu(gate) * up)


class CausalTransformer(nn.Module):
    """Projection in, blocks, norm: (B, T, D) -> (B, T, W), position t sees 0..t only."""

    def __init__(self, width_in: int, width: int, blocks: int, heads: int):
        super().__init__()
        if width % heads or (width // heads) % 2:
            raise ConfigError(
                f"bridge.context_width {width} does not split into {heads} heads of even width; "
                "choose a width that is a multiple of 2 x context_heads"
            )
        self.width = width
        self.enter = nn.Linear(width_in, width, bias=False)
        self.blocks = nn.ModuleList(CausalBlock(width, heads) for _ in range(blocks))
        self.norm = RMSNorm(width)

    def forward(self, condition_BTD: Tensor) -> Tensor:
        x_BTW = self.enter(condition_BTD)
        for block in self.blocks:
            x_BTW = block(x_BTW)
        return self.norm(x_BTW)

    def attention_flops(self, positions: int) -> int:
        """Return FLOPs per token of scores and mixing (2 x 2 x T x W per block), causality not deducted."""
        return 4 * positions * self.width * len(self.blocks)
