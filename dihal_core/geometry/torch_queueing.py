"""One subsample by torch, queued on its device without waiting: no result is read, nothing is sized by the data.

What the fast path may not be trusted with (an ill-conditioned factor, many neighbourhoods that cancel) is counted
on the device; whoever reads the counts asks again with `careful`, by eigendecompositions.

Letters: n subsample rows, D columns, M pairs, S Lanczos steps, k neighbours, m rows of a neighbourhood,
U neighbourhoods recomputed from rows.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from dihal_core.config import ProxySettings
from dihal_core.geometry.neighbourhoods import CANCELLATION, FORMS
from dihal_core.geometry.spectrum import fixed_start
from dihal_core.geometry.torch_kernels import PairRatios, Tensor, double_centred, lanczos, middle, open_matrices

STEPS = 60
"""Lanczos steps that are queued without looking at convergence."""
RECOMPUTED = 512
"""Neighbourhoods per subsample that may be recomputed from rows on the fast path."""


@dataclasses.dataclass(frozen=True)
class Queued:
    """What one subsample leaves on the device until the batch is read."""

    pairs_dropped: int
    rows: int
    scalars: Tensor
    """Trace, headline stiffness, relative stiffness, what is doubtful, the two middle local traces."""
    lanczos_2S: Tensor
    squared_M: Tensor
    local_nmm: Tensor | None
    """Centred Gram matrices, where their largest eigenvalues are asked for."""
    open_n: Tensor | None
    """Which of them can be in the middle."""
    below: Tensor | None


def queue_subsample(
    x_nD: Tensor,
    gram_nn: Tensor,
    search_nn: Tensor,
    twin_n: Tensor,
    kept_M2: Tensor,
    dropped_pairs: int,
    settings: ProxySettings,
    load: Callable[[np.ndarray], Tensor],
    careful: bool = False,
) -> Queued:
    """Queue all proxies of one subsample.

    Parameters
    ----------
    x_nD, gram_nn
        Rows about their mean, and their Gram matrix.
    search_nn
        Gram matrix whose distances choose the neighbours.
    twin_n
        Equal numbers mark identical rows.
    kept_M2
        Pairs of rows that differ; `dropped_pairs` others do not.
    load
        Puts an array on the device without waiting for it.
    careful
        Take the slow way that can always be trusted; waits for the device.
    """
    n = len(x_nD)
    local_nmm, unsafe = _neighbourhoods(x_nD, gram_nn, search_nn, twin_n, settings, careful)
    difference_MD = x_nD[kept_M2[:, 0]] - x_nD[kept_M2[:, 1]]
    squared_M = (difference_MD * difference_MD).sum(dim=1)
    many = n > x_nD.shape[1]
    # Rows about their own mean: the Gram matrix of a subsample sums to zero along both axes.
    moment = x_nD.T @ x_nD / (n - 1) if many else double_centred(gram_nn) / (n - 1)
    trace = moment.diagonal().sum()
    if careful:
        top = torch.linalg.eigvalsh(moment)[-1]
        lanczos_2S = torch.stack([top, torch.zeros_like(top)])[:, None]
    else:
        lanczos_2S = lanczos(moment, load(fixed_start(len(moment))), STEPS)
    stiffness, trusted = _stiffness(moment, x_nD, kept_M2, squared_M, trace, many, settings, careful)
    form = FORMS[settings.curvature_form]
    trace_middle = middle(torch.einsum("nii->n", local_nmm))
    open_n = below = None
    if settings.curvature_form == "inverse_top":
        open_n, below = open_matrices(local_nmm)
    else:
        trace_middle = trace_middle / (settings.k if form.over_k else 1)
    scalars = torch.stack([trace, *stiffness, unsafe.double() + (~trusted).double(), *trace_middle])
    return Queued(
        dropped_pairs, n, scalars, lanczos_2S, squared_M,
        None if open_n is None else local_nmm, open_n, below,
    )  # fmt: skip


def _neighbourhoods(
    x_nD: Tensor, gram_nn: Tensor, search_nn: Tensor, twin_n: Tensor, settings: ProxySettings, careful: bool
) -> tuple[Tensor, Tensor]:
    """Centred Gram matrices of all neighbourhoods, and how many that cancel were left as they are."""
    n = len(x_nD)
    distance_nn = search_nn.diagonal()[None, :] - 2.0 * search_nn
    distance_nn.fill_diagonal_(float("inf"))
    members_nm = torch.topk(distance_nn, settings.k, dim=1, largest=False).indices
    if settings.include_self:
        members_nm = torch.cat([torch.arange(n, device=x_nD.device)[:, None], members_nm], dim=1)
    local_nmm = gram_nn[members_nm[:, :, None], members_nm[:, None, :]]
    size_n = torch.einsum("nii->n", local_nmm).clone()
    local_nmm = double_centred(local_nmm)
    spread_n = torch.einsum("nii->n", local_nmm)
    twins_nm = twin_n[members_nm]
    same_n = (twins_nm == twins_nm[:, :1]).all(dim=1)
    unsafe_n = (spread_n < CANCELLATION * size_n) & ~same_n
    budget = n if careful else min(n, RECOMPUTED)
    chosen_U = torch.topk(unsafe_n.double(), budget).indices
    for chosen_u in chosen_U.split(RECOMPUTED):
        rows_umD = x_nD[members_nm[chosen_u]]
        rows_umD = rows_umD - rows_umD.mean(dim=1, keepdim=True)
        exact_umm = rows_umD @ rows_umD.transpose(1, 2)
        local_nmm[chosen_u] = torch.where(unsafe_n[chosen_u, None, None], exact_umm, local_nmm[chosen_u])
    local_nmm = torch.where(same_n[:, None, None], torch.zeros_like(local_nmm), local_nmm)
    return local_nmm, torch.clamp(unsafe_n.sum() - budget, min=0)


def _stiffness(
    moment: Tensor,
    x_nD: Tensor,
    kept_M2: Tensor,
    squared_M: Tensor,
    trace: Tensor,
    many: bool,
    settings: ProxySettings,
    careful: bool,
) -> tuple[list[Tensor], Tensor]:
    """Median pair ratio under the headline and the relative ridge, and whether the factors may be trusted."""
    d = x_nD.shape[1]
    relative = settings.eps_relative * trace / d
    headline = relative
    if settings.ridge == "absolute":
        headline = settings.eps * (trace if settings.scaling == "unit_trace" else torch.ones_like(trace))
    pairs = PairRatios(x_nD, kept_M2, squared_M, many)
    if careful:
        return [middle(ratio_M).mean() for ratio_M in pairs.by_eigenvectors(moment, [headline, relative])], (
            torch.ones((), dtype=torch.bool, device=x_nD.device)
        )
    found = [pairs.by_cholesky(moment, trace, eps) for eps in (headline, relative)]
    return [middle(ratio_M).mean() for ratio_M, _ in found], found[0][1] & found[1][1]
