"""The proxies by torch, on CPU or GPU: the formulas of the NumPy route, float64 throughout.

A batch of subsamples is queued without waiting for the device (`dihal_core.geometry.torch_queueing`), then read.
What the fast path may not be trusted with (an ill-conditioned factor, a slow Lanczos run, many neighbourhoods
that cancel) is measured again by eigendecompositions.

The numbers agree with the NumPy route to 1e-9 relative (1e-6 for duplicates, low rank, outlier dimensions).

Letters: N pool rows, n subsample rows, D columns, M pairs, S Lanczos steps.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from dihal_core.config import ProxySettings
from dihal_core.errors import NumericsError
from dihal_core.geometry.pool import Sample
from dihal_core.geometry.proxies import Proxies, headline_eps, measure_sample
from dihal_core.geometry.rows import check_request, identical_rows, require_rows, rms_rows, unit_rows
from dihal_core.geometry.spectrum import RESIDUAL, TOLERANCE
from dihal_core.geometry.torch_kernels import Tensor, device_of
from dihal_core.geometry.torch_queueing import Queued, queue_subsample

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
            batch: list[Queued] = []
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
    def _queue(self, request: Request, careful: bool = False) -> Queued:
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
        dropped = len(pairs_M2) - len(kept_M2)
        twins = self.twins_N[index]
        return queue_subsample(x_nD, gram_nn, search_nn, twins, kept_M2, dropped, self.settings, self._load, careful)

    def _grams(self, index: Tensor, x_nD: Tensor) -> tuple[Tensor, Tensor]:
        if self.gram_NN is not None and self.search_NN is not None:
            gram_nn = self.gram_NN[index][:, index]
            return gram_nn, gram_nn if self.unit_ND is None else self.search_NN[index][:, index]
        gram_nn = x_nD @ x_nD.T
        if self.unit_ND is None:
            return gram_nn, gram_nn
        unit_nD = self.unit_ND[index]
        return gram_nn, unit_nD @ unit_nD.T

    # -------------------------------------------------------------------------- reading
    def _read(self, batch: list[Queued], requests: Sequence[Request], careful: bool = False) -> list[Proxies]:
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


def _middle_eigenvalues(batch: list[Queued]) -> list[tuple[float, float] | None]:
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
