"""The per-token table: the mean target state of every token, a control that sees no context at all.

Letters: B windows, T positions, D hidden size, S tokens seen in training, N rows (token states).

Ours: the paper has no such control. A token that training never showed gets the mean of all states. The arm
sees the embedding output like every other one and knows a token by it: a fingerprint of its bits in bfloat16. A
table belongs to the backbone and dtype it was fitted on: families that scale their embedding (Gemma) round it
differently in another dtype, and every token would be a new one.
"""

import functools
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from dihal_core.bridges.fitting import CHUNK_WINDOWS, States
from dihal_core.bridges.frame import Arm, Frame
from dihal_core.bridges.standardise import state_mask
from dihal_core.errors import NumericsError
from dihal_core.progress import Progress, silent
from dihal_core.seeding import stream

EMBEDDED_TOKENS = 4096
"""Tokens embedded at a time."""


@functools.cache
def _multipliers(width: int) -> Tensor:
    drawn = stream(0, "token fingerprint", width).integers(-(2**63), 2**63, width, dtype=np.int64)
    return torch.from_numpy(drawn | 1)


def fingerprint(embeddings_BTD: Tensor) -> Tensor:
    """Return 64 bits per state, (B, T) int64: equal for equal states, and for no others in practice."""
    multiplier_D = _multipliers(embeddings_BTD.shape[-1]).to(embeddings_BTD.device)
    bits_BTD = embeddings_BTD.to(torch.bfloat16).view(torch.int16)
    return torch.stack([(bits_TD.long() * multiplier_D).sum(dim=-1) for bits_TD in bits_BTD])


class TableArm(Arm):
    """Looks the state up by the current token; made by `fit_table`, empty (all mean) before."""

    kind: ClassVar[str] = "table"
    key_S: Tensor
    state_SD: Tensor
    mean_D: Tensor

    def __init__(self, frame: Frame, tokens: int = 0):
        super().__init__(frame)
        self.register_buffer("key_S", torch.zeros(tokens, dtype=torch.long))
        self.register_buffer("state_SD", torch.zeros(tokens, frame.width))
        self.register_buffer("mean_D", torch.zeros(frame.width))

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        """Take as many tokens as the saved table has."""
        if f"{prefix}key_S" in state_dict:
            tokens = len(state_dict[f"{prefix}key_S"])
            self.key_S = self.key_S.new_zeros(tokens)
            self.state_SD = self.state_SD.new_zeros(tokens, self.frame.width)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    @torch.no_grad()
    def predict(
        self, embeddings_BTD: Tensor, steps: int = 1, sequence_B: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        """Return mean states by token, position 0 the stored constant; the other arguments play no part."""
        hidden_BTD = self.mean_D.expand(embeddings_BTD.shape).clone()
        if len(self.key_S):
            key_BT = fingerprint(embeddings_BTD)
            place_BT = torch.searchsorted(self.key_S, key_BT).clamp_max(len(self.key_S) - 1)
            known_BT = self.key_S[place_BT] == key_BT
            hidden_BTD = torch.where(known_BT[..., None], self.state_SD[place_BT], hidden_BTD)
        hidden_BTD[:, 0] = self.frame.sink_D
        return hidden_BTD


def fit_table(
    frame: Frame,
    embed_tokens: Callable[[Tensor], Tensor],
    states: States,
    tokens_NT: np.ndarray,
    lengths_N: Tensor,
    windows: np.ndarray,
    what: str,
    progress: Progress = silent,
) -> TableArm | None:
    """Average the states of each token over the counted positions of `windows`.

    Parameters
    ----------
    frame
        Of the layer; the arm shares it.
    embed_tokens
        LongTensor (B, T) -> state 0.
    states
        Hidden states of given windows, (B, T, D), any float dtype.
    tokens_NT, lengths_N
        All windows of the split.
    windows
        Training windows to average over.
    what
        Names the layer in errors.

    Returns
    -------
    TableArm or None
        None for a backbone whose state 0 also holds the position (GPT-2): no embedding names a token there.

    Raises
    ------
    NumericsError
        If there is no counted state, or a mean is not finite.
    """
    vocabulary_S = np.unique(tokens_NT[windows])
    if not _names_tokens(embed_tokens, int(vocabulary_S[-1])):
        return None
    sum_SD: Tensor | None = None
    count_S = torch.zeros(len(vocabulary_S), dtype=torch.long)
    for start in range(0, len(windows), CHUNK_WINDOWS):
        progress(start, len(windows), "windows")
        chunk = windows[start : start + CHUNK_WINDOWS]
        hidden_BTD = states(chunk)
        device = hidden_BTD.device
        if sum_SD is None:
            sum_SD = torch.zeros(len(vocabulary_S), hidden_BTD.shape[-1], dtype=torch.float64, device=device)
            count_S = count_S.to(device)
        mask_BT = state_mask(lengths_N[chunk], hidden_BTD.shape[1])
        index_N = torch.from_numpy(np.searchsorted(vocabulary_S, tokens_NT[chunk]))[mask_BT].to(device)
        # Sorted and summed run by run: adding rows at repeated indices has no fixed order on a GPU.
        index_N, order_N = index_N.sort(stable=True)
        present_U, length_U = torch.unique_consecutive(index_N, return_counts=True)
        rows_ND = hidden_BTD[mask_BT.to(device)][order_N].float()
        sum_SD[present_U] += torch.segment_reduce(rows_ND, "sum", lengths=length_U, axis=0).double()
        count_S[present_U] += length_U
    if sum_SD is None or not int(count_S.sum()):
        raise NumericsError(f"{what}: no training states for the per-token table; use more training windows")
    seen_S = count_S > 0
    keys = [
        fingerprint(embed_tokens(part[:, None]))[:, 0]
        for part in torch.from_numpy(vocabulary_S).long().split(EMBEDDED_TOKENS)
    ]
    key_S, place_S = torch.unique(torch.cat(keys).to(sum_SD.device)[seen_S], return_inverse=True)
    # Tokens with one and the same embedding are one entry.
    total_SD = torch.zeros(len(key_S), sum_SD.shape[1], dtype=torch.float64, device=sum_SD.device)
    total_SD.index_add_(0, place_S, sum_SD[seen_S])
    weight_S = torch.zeros(len(key_S), dtype=torch.long, device=sum_SD.device).index_add_(0, place_S, count_S[seen_S])
    arm = TableArm(frame, len(key_S)).to(sum_SD.device)
    arm.key_S.copy_(key_S)
    arm.state_SD.copy_(total_SD / weight_S[:, None])
    arm.mean_D.copy_(total_SD.sum(0) / weight_S.sum())
    if not bool(torch.isfinite(arm.state_SD).all()):
        raise NumericsError(f"{what}: a mean state of the per-token table is not finite; check the hidden states")
    return arm.eval()


def _names_tokens(embed_tokens: Callable[[Tensor], Tensor], token: int) -> bool:
    """Say whether one token has one state 0 wherever it stands."""
    key_1T = fingerprint(embed_tokens(torch.full((1, 3), token)))
    return bool((key_1T == key_1T[:, :1]).all())
