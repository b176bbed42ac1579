"""The proxies by torch, on CPU or GPU: the formulas of the NumPy route, float64 throughout.

A batch of subsamples is queued without waiting for the device: no result is read, and nothing of
data-dependent size is made, until the whole batch is queued. What the fast path may not be trusted with
(an ill-conditioned factor, a slow Lanczos run, many neighbourhoods that cancel) is counted on the device,
and those few subsamples are measured again by eigendecompositions.

The numbers agree with the NumPy route to 1e-9 relative (1e-6 for duplicates, low rank, outlier dimensions).

Letters: N pool rows, n subsample rows, D columns, M pairs, k neighbours, m rows of a neighbourhood,
U neighbourhoods recomputed from rows.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from dihal_core.config import ProxySettings
from dihal_core.errors import NumericsError
from dihal_core.geometry.neighbourhoods import CANCELLATION, FORMS
from dihal_core.geometry.pool import Sample
from dihal_core.geometry.proxies import Proxies, headline_eps, measure_sample
from dihal_core.geometry.rows import check_request, identical_rows, require_rows, rms_rows, unit_rows
from dihal_core.geometry.spectrum import RESIDUAL, TOLERANCE, fixed_start
from dihal_core.geometry.torch_kernels import (
    PairRatios,
    Tensor,
    device_of,
    double_centred,
    lanczos,
    middle,
    open_matrices,
)

STEPS = 60
"""Lanczos steps that are queued without looking at convergence."""
RECOMPUTED = 512
"""Neighbourhoods per subsample that may be recomputed from rows on the fast path."""
BATCH_BYTES = 2e9
"""Local Gram matrices kept on the device until a batch is read."""

Request = tuple[np.ndarray | None, np.ndarray]
"""Pool rows of a subsample (None: all), and pairs that are positions within it."""


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Run the block with `threads` intra-op threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclasses.dataclass(frozen=True)
class _Queued:
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


class TorchPool:
    """Rows of one layer on a device.

    Parameters
    ----------
    x_ND : ndarray of shape (N, D)
        Rows.
    settings : ProxySettings
        `backend` names the device.
    label : str
        Named in errors.
    share_gram : bool
        One N x N Gram matrix serves all subsamples; else each has one of its own.

    Raises
    ------
    ConfigError, NumericsError
        As `dihal_core.geometry.measure`.
    ResourceError
        If the device is not there.
    """

    def __init__(self, x_ND: np.ndarray, settings: ProxySettings, label: str = "x", share_gram: bool = True):
        require_rows(x_ND, settings.k, label)
        if settings.scaling == "token_rms":
            x_ND = rms_rows(x_ND, label)
        self.settings, self.label = settings, label
        self.twin_N = identical_rows(x_ND)
        if self.twin_N.max() == 0:
            raise NumericsError(f"{label}: all {len(x_ND)} rows are equal; there is no variance to measure")
        self.device = device_of(settings.backend)
        single = x_ND.dtype == np.float32 and not share_gram
        self.rows_ND = self._load(x_ND if single else np.ascontiguousarray(x_ND, dtype=np.float64))
        self.twins_N = self._load(self.twin_N)
        self.unit_ND = self._load(unit_rows(x_ND, label)) if settings.metric == "cosine" else None
        self.gram_NN: Tensor | None = None
        self.search_NN: Tensor | None = None
        if share_gram:
            self.rows_ND = self.rows_ND - self.rows_ND.mean(dim=0)
            self.gram_NN = self.rows_ND @ self.rows_ND.T
            self.search_NN = self.gram_NN if self.unit_ND is None else self.unit_ND @ self.unit_ND.T

    def _load(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        # A copy from pageable memory would wait for the device.
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def measure_all(self, requests: Sequence[Request]) -> list[Proxies]:
        """Measure every request; results are read once per batch.

        Raises
        ------
        ConfigError, NumericsError
            As `dihal_core.geometry.measure`.
        """
        found: list[Proxies] = []
        while len(found) < len(requests):
            batch: list[_Queued] = []
            used = 0.0
            for request in requests[len(found) :]:
                if batch and used > BATCH_BYTES:
                    break
                batch.append(self._queue(request))
                local_nmm = batch[-1].local_nmm
                used += 0 if local_nmm is None else local_nmm.numel() * 8
            found += self._read(batch, requests[len(found) : len(found) + len(batch)])
        return found

    # -------------------------------------------------------------------------- queueing
    def _queue(self, request: Request, careful: bool = False) -> _Queued:
        rows_n, pairs_M2 = request
        n = len(self.twin_N) if rows_n is None else len(rows_n)
        check_request(n, pairs_M2, self.settings.k)
        index_n = np.arange(n) if rows_n is None else np.asarray(rows_n)
        twin_n = self.twin_N[index_n]
        if (twin_n == twin_n[0]).all():
            raise NumericsError(f"{self.label}: the {n} sampled rows are all equal; there is no variance to measure")
        pairs_M2 = np.asarray(pairs_M2)
        differ_M = twin_n[pairs_M2[:, 0]] != twin_n[pairs_M2[:, 1]]
        if not differ_M.any():
            raise NumericsError(
                f"{self.label}: all {len(pairs_M2)} sampled pairs join identical rows; sample other rows"
            )
        kept_M2 = self._load(pairs_M2[differ_M].astype(np.int64))
        index = self._load(index_n.astype(np.int64))
        x_nD = self.rows_ND[index].double()
        x_nD = x_nD - x_nD.mean(dim=0)
        gram_nn, search_nn = self._grams(index, x_nD)
        local_nmm, unsafe = self._neighbourhoods(x_nD, gram_nn, search_nn, self.twins_N[index], careful)
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
            lanczos_2S = lanczos(moment, self._load(fixed_start(len(moment))), STEPS)
        stiffness, trusted = self._stiffness(moment, x_nD, kept_M2, squared_M, trace, many, careful)
        form = FORMS[self.settings.curvature_form]
        trace_middle = middle(torch.einsum("nii->n", local_nmm))
        open_n = below = None
        if self.settings.curvature_form == "inverse_top":
            open_n, below = open_matrices(local_nmm)
        else:
            trace_middle = trace_middle / (self.settings.k if form.over_k else 1)
        scalars = torch.stack([trace, *stiffness, unsafe.double() + (~trusted).double(), *trace_middle])
        return _Queued(
            len(pairs_M2) - len(kept_M2), n, scalars, lanczos_2S, squared_M,
            None if open_n is None else local_nmm, open_n, below,
        )  # fmt: skip

    def _grams(self, index: Tensor, x_nD: Tensor) -> tuple[Tensor, Tensor]:
        if self.gram_NN is not None and self.search_NN is not None:
            gram_nn = self.gram_NN[index][:, index]
            return gram_nn, gram_nn if self.unit_ND is None else self.search_NN[index][:, index]
        gram_nn = x_nD @ x_nD.T
        if self.unit_ND is None:
            return gram_nn, gram_nn
        unit_nD = self.unit_ND[index]
        return gram_nn, unit_nD @ unit_nD.T

    def _neighbourhoods(
        self, x_nD: Tensor, gram_nn: Tensor, search_nn: Tensor, twin_n: Tensor, careful: bool
    ) -> tuple[Tensor, Tensor]:
        """Centred Gram matrices of all neighbourhoods, and how many that cancel were left as they are."""
        settings, n = self.settings, len(x_nD)
        distance_nn = search_nn.diagonal()[None, :] - 2.0 * search_nn
        distance_nn.fill_diagonal_(float("inf"))
        members_nm = torch.topk(distance_nn, settings.k, dim=1, largest=False).indices
        if settings.include_self:
            members_nm = torch.cat([torch.arange(n, device=self.device)[:, None], members_nm], dim=1)
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
        self, moment: Tensor, x_nD: Tensor, kept_M2: Tensor, squared_M: Tensor, trace: Tensor, many: bool, careful: bool
    ) -> tuple[list[Tensor], Tensor]:
        """Median pair ratio under the headline and the relative ridge, and whether the factors may be trusted."""
        settings, d = self.settings, x_nD.shape[1]
        relative = settings.eps_relative * trace / d
        headline = relative
        if settings.ridge == "absolute":
            headline = settings.eps * (trace if settings.scaling == "unit_trace" else torch.ones_like(trace))
        pairs = PairRatios(x_nD, kept_M2, squared_M, many)
        if careful:
            return [middle(ratio_M).mean() for ratio_M in pairs.by_eigenvectors(moment, [headline, relative])], (
                torch.ones((), dtype=torch.bool, device=self.device)
            )
        found = [pairs.by_cholesky(moment, trace, eps) for eps in (headline, relative)]
        return [middle(ratio_M).mean() for ratio_M, _ in found], found[0][1] & found[1][1]

    # -------------------------------------------------------------------------- reading
    def _read(self, batch: list[_Queued], requests: Sequence[Request], careful: bool = False) -> list[Proxies]:
        scalars = torch.stack([queued.scalars for queued in batch]).cpu().numpy()
        for trace in scalars[:, 0]:
            if not 0.0 < trace < np.inf:
                raise NumericsError(
                    f"{self.label}: the total variance is {trace} in float64; rescale the rows to ordinary magnitudes"
                )
        middles = _middle_eigenvalues(batch)
        found = []
        for queued, request, values, exact in zip(batch, requests, scalars, middles, strict=True):
            trace, head, relative, doubtful, low, high = (float(value) for value in values)
            top, converged = _ritz(queued.lanczos_2S.cpu().numpy())
            if not careful and (doubtful or not converged or not np.isfinite(head + relative)):
                found += self._read([self._queue(request, careful=True)], [request], careful=True)
                continue
            low, high = (low, high) if exact is None else exact
            divisor = self.settings.k if self.settings.include_self else self.settings.k - 1
            sample = Sample(
                num_rows=queued.rows,
                num_columns=self.rows_ND.shape[1],
                trace=trace,
                lambda_max=top,
                local_middle=(low / divisor, high / divisor),
                squared_M=queued.squared_M.cpu().numpy(),
                dropped_pairs=queued.pairs_dropped,
                median_stiffness=self._known(trace, head, relative),
            )
            found.append(measure_sample(sample, self.settings, self.label))
        return found

    def _known(self, trace: float, head: float, relative: float) -> Callable[[float], float]:
        first = headline_eps(self.settings, trace, self.rows_ND.shape[1])
        return lambda eps: head if eps == first else relative


def _ritz(lanczos_2S: np.ndarray) -> tuple[float, bool]:
    """Largest Ritz value, and whether it has converged by the rule of `spectrum.top_eigenvalue`."""
    diagonal_S, off_S = lanczos_2S
    if not np.isfinite(lanczos_2S).all():
        return float("nan"), False
    steps = len(diagonal_S)
    # An exhausted Krylov space splits the matrix: what follows is orthogonal to it.
    values_S, vectors_SS = np.linalg.eigh(np.diag(diagonal_S) + np.diag(off_S[:-1], 1) + np.diag(off_S[:-1], -1))
    value = float(values_S[-1])
    residual = off_S[-1] * abs(vectors_SS[-1, -1])
    gap = 0.5 * (value - float(values_S[-2])) if steps > 1 else value
    return value, residual <= RESIDUAL * value and residual**2 <= TOLERANCE * value * gap


def _middle_eigenvalues(batch: list[_Queued]) -> list[tuple[float, float] | None]:
    """The two middle largest eigenvalues of every subsample's neighbourhoods: one small batch on the host."""
    found: list[Any] = []
    for queued in batch:
        if queued.local_nmm is None or queued.open_n is None or queued.below is None:
            found.append(None)
            continue
        local = queued.local_nmm[queued.open_n].cpu().numpy()
        trace = np.einsum("nii->n", local)
        scale = np.where(trace > 0, trace, 1.0)
        exact = np.sort(np.maximum(np.linalg.eigvalsh(local / scale[:, None, None])[:, -1], 0.0) * scale)
        below, n = int(queued.below), queued.rows
        found.append((float(exact[(n - 1) // 2 - below]), float(exact[n // 2 - below])))
    return found
