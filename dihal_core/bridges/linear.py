"""Ridge regression from the last few embedding states: the base every bridge starts from, and a control.

Letters: B windows, T positions, D hidden size, J tokens seen (the current one and J - 1 before it),
F = J x D features, N rows.

The features are the same for every layer, so their Gram matrix is factorised once and a layer costs
one cross product and two triangular solves. A three-token ridge is a strong control (ours: the paper
has none), and its error orders layers nearly as a trained bridge does.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dihal_core.errors import NumericsError


def lagged(condition_BTD: Tensor, tokens: int) -> Tensor:
    """Return features [c_t, c_{t-1}, ..] of shape (B, T, J x D); slots before the window are zero."""
    shifted = [condition_BTD]
    for _ in range(1, tokens):
        shifted.append(F.pad(shifted[-1], (0, 0, 1, 0))[:, :-1])
    return torch.cat(shifted, dim=-1)


class RidgeBase(nn.Module):
    """Frozen linear map of the last J condition states to standardised hidden states."""

    weight_FD: Tensor
    bias_D: Tensor

    def __init__(self, width: int, tokens: int):
        super().__init__()
        self.tokens = tokens
        self.register_buffer("weight_FD", torch.zeros(tokens * width, width))
        self.register_buffer("bias_D", torch.zeros(width))

    def forward(self, condition_BTD: Tensor) -> Tensor:
        """Return the prediction (B, T, D), float32 unless autocast."""
        return lagged(condition_BTD, self.tokens) @ self.weight_FD + self.bias_D


@dataclasses.dataclass(frozen=True)
class RidgeFactor:
    """What all layers share: Cholesky factor of the centred Gram matrix plus penalty, and the centre."""

    cholesky_FF: Tensor
    """Lower factor, float32 (made in float64)."""
    centre_F: Tensor
    """Mean of the features over the fitted rows, float32."""
    rows: int
    penalty: float
    """Absolute penalty: the setting times the mean diagonal of the centred Gram matrix."""


class GramSums:
    """Accumulates feature sums and X'X over chunks: products in float32, sums in float64."""

    def __init__(self, features: int, device: torch.device):
        self.gram_FF = torch.zeros(features, features, dtype=torch.float64, device=device)
        self.sum_F = torch.zeros(features, dtype=torch.float64, device=device)
        self.rows = 0

    def add(self, rows_NF: Tensor) -> None:
        """Add the features of some rows."""
        self.gram_FF += (rows_NF.T @ rows_NF).double()
        self.sum_F += rows_NF.sum(0, dtype=torch.float64)
        self.rows += len(rows_NF)

    def factorise(self, relative_penalty: float) -> RidgeFactor:
        """Return the factor of X'X - n x x' + penalty.

        Raises
        ------
        NumericsError
            If the matrix is not positive definite in spite of the penalty.
        """
        centre_F = self.sum_F / max(self.rows, 1)
        centred_FF = self.gram_FF - self.rows * torch.outer(centre_F, centre_F)
        penalty = relative_penalty * float(centred_FF.diagonal().mean())
        centred_FF.diagonal().add_(penalty)
        cholesky_FF, failed = torch.linalg.cholesky_ex(centred_FF)
        if int(failed) or penalty <= 0:
            raise NumericsError(
                f"the Gram matrix of {self.rows} embedding states is not positive definite with penalty {penalty:.3g}; "
                "raise bridge.ridge_penalty or use more training windows"
            )
        return RidgeFactor(cholesky_FF.float(), centre_F.float(), self.rows, penalty)


class CrossSums:
    """Accumulates X'Y and sums of Y over windows of one layer, lag by lag, without building X.

    The products run in `dtype`. In bfloat16 they are four times faster on CPUs that have it; each
    chunk's product is rounded once (relative 2^-9) and the chunks are summed in float32, which moves
    the fraction of variance unexplained by less than 1e-4 (held by a test).
    """

    def __init__(self, width: int, tokens: int, device: torch.device, dtype: torch.dtype):
        self.cross_JDD = torch.zeros(tokens, width, width, device=device)
        self.sum_D = torch.zeros(width, dtype=torch.float64, device=device)
        self.dtype = dtype

    def add(self, condition_BTD: Tensor, target_BTD: Tensor) -> None:
        """Add some windows: standardised condition, and standardised targets with zeros where masked."""
        D = condition_BTD.shape[-1]
        condition_BTD, narrow_BTD = condition_BTD.to(self.dtype), target_BTD.to(self.dtype)
        for lag, cross_DD in enumerate(self.cross_JDD):
            earlier_ND = condition_BTD[:, : condition_BTD.shape[1] - lag].reshape(-1, D)
            cross_DD += earlier_ND.T @ narrow_BTD[:, lag:].reshape(-1, D)
        self.sum_D += target_BTD.sum((0, 1), dtype=torch.float64)


def fit_ridge(factor: RidgeFactor, cross: CrossSums) -> RidgeBase:
    r"""Solve :math:`(X_c^\top X_c + \lambda) W = X_c^\top Y` and return the frozen base.

    Raises
    ------
    NumericsError
        If the solution is not finite.
    """
    mean_D = (cross.sum_D / factor.rows).float()
    tokens, width, _ = cross.cross_JDD.shape
    centred_FD = cross.cross_JDD.flatten(0, 1) - factor.rows * torch.outer(factor.centre_F, mean_D)
    weight_FD = torch.cholesky_solve(centred_FD, factor.cholesky_FF)
    if not bool(torch.isfinite(weight_FD).all()):
        raise NumericsError("ridge weights are not finite; check the hidden states of this layer for inf or NaN")
    base = RidgeBase(width, tokens).to(weight_FD.device)
    base.weight_FD.copy_(weight_FD)
    base.bias_D.copy_(mean_D - factor.centre_F @ weight_FD)
    return base


def narrowed(base: RidgeBase, factor: RidgeFactor, tokens: int = 1) -> RidgeBase:
    r"""Return the ridge map on the last `tokens` tokens alone, from the factorisation that `base` was solved with.

    The current token's features come first, so the leading block of the Cholesky factor is the factor of theirs, and
    :math:`X_c^\top Y = L L^\top W`: one product and two small triangular solves, no second look at the data. The absolute
    penalty is that of `base`.

    Raises
    ------
    ValueError
        If `base` sees fewer tokens.
    """
    if not 1 <= tokens <= base.tokens:
        raise ValueError(f"tokens {tokens} is outside 1..{base.tokens}, what the base sees")
    width = base.bias_D.numel()
    seen = tokens * width
    lower_FF = factor.cholesky_FF.double()
    centred_FD = lower_FF[:seen] @ (lower_FF.T @ base.weight_FD.double())
    weight_FD = torch.cholesky_solve(centred_FD, lower_FF[:seen, :seen]).float()
    mean_D = base.bias_D + factor.centre_F @ base.weight_FD
    found = RidgeBase(width, tokens).to(weight_FD.device)
    found.weight_FD.copy_(weight_FD)
    found.bias_D.copy_(mean_D - factor.centre_F[:seen] @ weight_FD)
    return found
