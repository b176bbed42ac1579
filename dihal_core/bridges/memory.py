"""What an incremental arm keeps of its prefix: slots per position, and the context transformer's keys and values.

Letters: B rows, t new positions, S slots seen so far, D hidden size, C context width, H heads, K head width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dihal_core.bridges.context import CausalTransformer, rotary_at, rotary_table, rotate


class Slots:
    """A tensor (B, S, ..) that grows by doubling and is written row by row at given positions."""

    def __init__(self) -> None:
        self.data: Tensor | None = None

    def write(self, positions_Bt: Tensor, values: Tensor, used: int) -> Tensor:
        """Store `values` (B, t, ..) at `positions_Bt` and return the first `used` slots, zero where nothing was."""
        data = self._room(values, used)
        data[torch.arange(len(values), device=values.device)[:, None], positions_Bt] = values
        return data[:, :used]

    def append(self, position: int, values_B: Tensor) -> Tensor:
        """Store `values_B` (B, ..) at `position` of every row and return the slots up to it."""
        data = self._room(values_B[:, None], position + 1)
        data[:, position] = values_B
        return data[:, : position + 1]

    def _room(self, values: Tensor, used: int) -> Tensor:
        data = self.data
        if data is None or data.shape[1] < used:
            capacity = used if data is None else 2 * used
            grown = values.new_zeros(values.shape[0], capacity, *values.shape[2:])
            if data is not None:
                grown[:, : data.shape[1]] = data
            self.data = data = grown
        return data

    def select(self, index_R: Tensor) -> None:
        """Keep rows `index_R`."""
        self.data = None if self.data is None else self.data[index_R.to(self.data.device)]


class ContextMemory:
    """Keys and values of a causal context transformer, so that a new token attends to what is stored."""

    def __init__(self, transformer: CausalTransformer):
        self.transformer = transformer
        self.keys = [Slots() for _ in transformer.blocks]
        self.values = [Slots() for _ in transformer.blocks]
        self._table: tuple[Tensor, Tensor] | None = None

    def extend(self, condition_BtD: Tensor, positions_Bt: Tensor, used: int) -> Tensor:
        """Return context_BtC of new positions and remember their keys and values."""
        seen_BtS = torch.arange(used, device=positions_Bt.device) <= positions_Bt[..., None]
        x_BtC = self.transformer.enter(condition_BtD)
        for block, keys, values in zip(self.transformer.blocks, self.keys, self.values, strict=True):
            x_BtC = _extend_block(block, x_BtC, keys, values, positions_Bt, seen_BtS)
        return self.transformer.norm(x_BtC)

    def step(self, condition_B1D: Tensor, position: int) -> Tensor:
        """Return context_B1C of one new position, the same in every row, which sees all slots up to it: no mask."""
        x_B1C = self.transformer.enter(condition_B1D)
        cos_K, sin_K = self._rotary(position, x_B1C)
        for block, keys, values in zip(self.transformer.blocks, self.keys, self.values, strict=True):
            x_B1C = _step_block(block, x_B1C, keys, values, (cos_K, sin_K), position)
        return self.transformer.norm(x_B1C)

    def _rotary(self, position: int, like: Tensor) -> tuple[Tensor, Tensor]:
        if self._table is None or len(self._table[0]) <= position:
            block: Any = self.transformer.blocks[0]
            head_width = int(self.transformer.width) // block.heads
            self._table = rotary_table(2 * (position + 1), head_width, like)
        return self._table[0][position], self._table[1][position]

    def select(self, index_R: Tensor) -> None:
        """Keep rows `index_R`."""
        for slots in (*self.keys, *self.values):
            slots.select(index_R)


def _extend_block(
    block: Any, x_BtC: Tensor, keys: Slots, values: Slots, positions_Bt: Tensor, seen_BtS: Tensor
) -> Tensor:
    """Run one `CausalBlock` on new positions; slots behind a row's position are masked."""
    B, t, C = x_BtC.shape
    qkv = block.qkv(block.attention_norm(x_BtC)).view(B, t, 3, block.heads, C // block.heads)
    query_BHtK, key_BHtK, value_BHtK = qkv.permute(2, 0, 3, 1, 4)
    cos, sin = rotary_at(positions_Bt, C // block.heads, x_BtC)
    table = cos[:, None], sin[:, None]
    used = seen_BtS.shape[-1]
    key_BSHK = keys.write(positions_Bt, rotate(key_BHtK, table).transpose(1, 2), used)
    value_BSHK = values.write(positions_Bt, value_BHtK.transpose(1, 2), used)
    mixed_BHtK = F.scaled_dot_product_attention(
        rotate(query_BHtK, table), key_BSHK.transpose(1, 2), value_BSHK.transpose(1, 2), attn_mask=seen_BtS[:, None]
    )
    return _feed_forward(block, x_BtC + block.attention_out(mixed_BHtK.transpose(1, 2).reshape(B, t, C)))


def _step_block(
    block: Any, x_B1C: Tensor, keys: Slots, values: Slots, table: tuple[Tensor, Tensor], position: int
) -> Tensor:
    """Run one `CausalBlock` on one new position of rows of one length."""
    B, _, C = x_B1C.shape
    qkv_B3HK = block.qkv(block.attention_norm(x_B1C)).view(B, 3, block.heads, C // block.heads)
    rotated_B2HK = rotate(qkv_B3HK[:, :2], table)
    key_BSHK = keys.append(position, rotated_B2HK[:, 1])
    value_BSHK = values.append(position, qkv_B3HK[:, 2])
    mixed_BH1K = F.scaled_dot_product_attention(
        rotated_B2HK[:, 0, :, None], key_BSHK.transpose(1, 2), value_BSHK.transpose(1, 2)
    )
    return _feed_forward(block, x_B1C + block.attention_out(mixed_BH1K.reshape(B, 1, C)))


def _feed_forward(block: Any, x_BtC: Tensor) -> Tensor:
    gate, up = block.gate_up(block.feedforward_norm(x_BtC)).chunk(2, dim=-1)
    return x_BtC + block.down(F.silu(gate) * up)
