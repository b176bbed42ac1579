"""Ridge maps beside the frozen base: fitted on every window a bridge was trained on, or on one token alone.

The frozen base that bridges start from is fitted on the first `bridge.ridge_windows` training windows, which is enough
for a start and cheap. Next to a trained bridge it has seen less, and a ratio to it flatters the bridge. This arm
lives in the same frame (its statistics are an affine map, which a ridge map undoes up to its penalty) and differs in the
rows of its normal equations alone. One pass, a chunk of states in memory at a time. Ours: the paper has no ridge map.

Letters: B windows of a chunk, T positions, D hidden size, F features.
"""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from dihal_core.bridges.fitting import CHUNK_WINDOWS, States
from dihal_core.bridges.frame import BasedArm, Frame
from dihal_core.bridges.linear import CrossSums, GramSums, RidgeBase, RidgeFactor, fit_ridge, lagged, narrowed
from dihal_core.bridges.standardise import state_mask
from dihal_core.errors import NumericsError
from dihal_core.progress import Progress, silent


class WideRidgeArm(BasedArm):
    """A ridge map of its own beside the frame's; made by `fit_wide_ridge`, all zero before."""

    kind: ClassVar[str] = "ridge-all"

    def __init__(self, frame: Frame):
        super().__init__(frame)
        self.map = RidgeBase(frame.width, frame.ridge.tokens)

    @torch.no_grad()
    def predict(
        self, embeddings_BTD: Tensor, steps: int = 1, sequence_B: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        """Apply the map without computing the base, which has no part in it; the other arguments play none."""
        return self.frame.finish(self.map(self.frame.condition(embeddings_BTD)))

    def estimate(self, condition_BTD: Tensor, base_BTD: Tensor, steps: int, sequence_B: Tensor, seed: int) -> Tensor:
        """Apply the map; the base, `steps`, `sequence_B` and `seed` play no part."""
        return self.map(condition_BTD)


class NarrowRidgeArm(WideRidgeArm):
    """The ridge map on the current token alone: what the earlier tokens add is seen beside it."""

    kind: ClassVar[str] = "ridge-1"

    def __init__(self, frame: Frame):
        super().__init__(frame)
        self.map = RidgeBase(frame.width, 1)


@torch.no_grad()
def narrow_ridge(frame: Frame, factor: RidgeFactor) -> NarrowRidgeArm:
    """Return the map on one token, solved with the factor of the frame's own ridge (see `narrowed`)."""
    arm = NarrowRidgeArm(frame).to(factor.centre_F.device)
    arm.map = narrowed(frame.ridge, factor)
    return arm.eval()


@torch.no_grad()
def fit_wide_ridge(
    frame: Frame,
    embed: States,
    states: States,
    lengths_N: Tensor,
    windows: np.ndarray,
    penalty: float,
    what: str,
    progress: Progress = silent,
) -> tuple[WideRidgeArm, int]:
    """Fit the map on all of `windows` and return it with the number of token states it was fitted on.

    Parameters
    ----------
    frame
        Of the layer; the arm shares it and sees as many tokens as its ridge.
    embed, states
        Embedding states and hidden states of given windows, (B, T, D), any float dtype.
    lengths_N
        Lengths of all windows of the split.
    windows
        Training windows to fit on.
    penalty
        Relative, as `bridge.ridge_penalty`.
    what
        Names the layer in errors.

    Raises
    ------
    NumericsError
        If there is no window, the Gram matrix is not positive definite, or the weights are not finite.
    """
    tokens = frame.ridge.tokens
    gram: GramSums | None = None
    cross: CrossSums | None = None
    for start in range(0, len(windows), CHUNK_WINDOWS):
        progress(start, len(windows), "windows")
        chunk = windows[start : start + CHUNK_WINDOWS]
        condition_BTD, hidden_BTD = frame.condition(embed(chunk)), states(chunk)
        device = hidden_BTD.device
        mask_BT = state_mask(lengths_N[chunk], hidden_BTD.shape[1]).to(device)
        product_dtype = torch.bfloat16 if hidden_BTD.dtype == torch.bfloat16 else torch.float32
        gram = gram or GramSums(tokens * frame.width, device)
        cross = cross or CrossSums(frame.width, tokens, device, product_dtype)
        gram.add(lagged(condition_BTD, tokens)[mask_BT])
        cross.add(condition_BTD, frame.target(hidden_BTD) * mask_BT[..., None])
    if gram is None or cross is None:
        raise NumericsError(
            f"{what}: no training windows to fit the ridge map on; raise the number of training windows"
        )
    factor = gram.factorise(penalty)
    arm = WideRidgeArm(frame).to(factor.centre_F.device)
    arm.map = fit_ridge(factor, cross)
    return arm.eval(), factor.rows
