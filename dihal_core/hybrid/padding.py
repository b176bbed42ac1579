"""Padding on either side, brought to the one form a bridge knows: rows that start at position 0.

Letters: B rows, T columns of the batch, D hidden size.
"""

import dataclasses

import torch
from torch import Tensor

from dihal_core.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Rows:
    """Where each row's real tokens lie: columns first .. first + count - 1."""

    first_B: Tensor
    count_B: Tensor

    def positions(self, columns: int) -> Tensor:
        """Return each column's position within its row (B, T); 0 for the columns before it."""
        column_T = torch.arange(columns, device=self.first_B.device)
        return (column_T - self.first_B[:, None]).clamp_min(0)

    def to_left(self, x_BTD: Tensor) -> Tensor:
        """Shift every row so that its first real token stands in column 0; the end repeats the last column."""
        T = x_BTD.shape[1]
        column_T = torch.arange(T, device=x_BTD.device)
        index_BT = (column_T + self.first_B[:, None]).clamp_max(T - 1)
        return x_BTD.gather(1, index_BT[..., None].expand_as(x_BTD))

    def from_left(self, x_BTD: Tensor) -> Tensor:
        """Undo `to_left`; columns before a row's first token repeat it."""
        return x_BTD.gather(1, self.positions(x_BTD.shape[1])[..., None].expand_as(x_BTD))


def find_rows(attention_mask_BT: Tensor | None, batch: int, columns: int) -> Rows | None:
    """Return where the real tokens lie, or None if every column of every row is real.

    Raises
    ------
    ConfigError
        If the mask has another shape, holds anything but 0 and 1, has gaps, or leaves a row empty.
    """
    if attention_mask_BT is None:
        return None
    if tuple(attention_mask_BT.shape) != (batch, columns):
        raise ConfigError(
            f"attention_mask of shape {tuple(attention_mask_BT.shape)} does not fit {batch} rows of {columns} tokens, "
            "those in the cache included; give one 0 or 1 per token"
        )
    mask_BT = attention_mask_BT.long()
    if bool((mask_BT == 1).all()):
        return None
    count_B = mask_BT.sum(dim=1)
    first_B = mask_BT.argmax(dim=1)
    column_T = torch.arange(columns, device=mask_BT.device)
    expected_BT = (column_T >= first_B[:, None]) & (column_T < (first_B + count_B)[:, None])
    if not torch.equal(mask_BT, expected_BT.long()):
        row = int((mask_BT != expected_BT.long()).any(dim=1).nonzero()[0])
        raise ConfigError(
            f"attention_mask of row {row} is not one unbroken run of ones; the bridge needs contiguous text, so pad "
            "prompts on the left (tokenizer.padding_side='left')"
        )
    if bool((count_B == 0).any()):
        raise ConfigError(
            f"row {int((count_B == 0).nonzero()[0])} holds padding only; give every row at least the separator token"
        )
    return Rows(first_B, count_B)
