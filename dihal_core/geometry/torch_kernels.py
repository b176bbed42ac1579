"""Formulas of the geometry in torch: those of a subsample never wait for the device, those of a pool return arrays.

Letters: n rows, D columns, R coordinates, M pairs, S Lanczos steps, m rows of a neighbourhood.
"""

import dataclasses

import numpy as np
import torch

from dihal_core.errors import ResourceError
from dihal_core.geometry.algebra import Algebra
from dihal_core.geometry.stiffness import DUAL_ERROR, PIVOT_RATIO

EPS64 = float(np.finfo(np.float64).eps)
Tensor = torch.Tensor


def device_of(backend: str) -> torch.device:
    """Return the device of `torch-cpu` or `torch-cuda`.

    Raises
    ------
    ResourceError
        If CUDA is asked for and torch sees no device.
    """
    if backend == "torch-cuda" and not torch.cuda.is_available():
        raise ResourceError(
            "geometry.backend is torch-cuda but torch sees no CUDA device; set geometry.backend=numpy or torch-cpu, "
            "or install torch for CUDA"
        )
    return torch.device("cuda" if backend == "torch-cuda" else "cpu")


@dataclasses.dataclass(frozen=True)
class PairRatios:
    """Ratios (x_i - x_j)^T (Sigma + eps I)^-1 (x_i - x_j) / |x_i - x_j|^2 of pairs; formulas as in `stiffness.py`.

    `moment` is Sigma where n > D (`many`), else the centred Gram matrix over n - 1.
    """

    x_nD: Tensor
    kept_M2: Tensor
    squared_M: Tensor
    many: bool

    def _differences(self, rows_nR: Tensor) -> Tensor:
        difference_MR = rows_nR[self.kept_M2[:, 0]] - rows_nR[self.kept_M2[:, 1]]
        return (difference_MR * difference_MR).sum(dim=1)

    def by_cholesky(self, moment: Tensor, trace: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ratios (M,) and whether the Cholesky factor may be trusted (bool, on the device)."""
        n, size = len(self.x_nD), len(moment)
        identity = torch.eye(size, dtype=moment.dtype, device=moment.device)
        shift = torch.zeros_like(trace) if self.many else trace / n**2
        factor, info = torch.linalg.cholesky_ex(moment + shift + eps * identity)
        pivots = factor.diagonal() ** 2
        trusted = (info == 0) & (pivots.min() > PIVOT_RATIO * pivots.max())
        right = self.x_nD.T if self.many else identity
        white = torch.linalg.solve_triangular(factor, right, upper=False).T.contiguous()
        if self.many:
            return self._differences(white) / self.squared_M, trusted
        largest = (white * white).sum(dim=1).max()
        error = eps * largest * (largest * n**2 * shift) * EPS64
        numerator_M = 2.0 - eps * self._differences(white)
        return (n - 1) * numerator_M / self.squared_M, trusted & (error < DUAL_ERROR)

    def by_eigenvectors(self, moment: Tensor, ridges: list[Tensor]) -> list[Tensor]:
        """Return the ratios (M,) under every ridge; waits for the device."""
        n = len(self.x_nD)
        values, vectors = torch.linalg.eigh(moment)
        rounding = 16 * EPS64 * values[-1]
        if self.many:
            rows, positive = self.x_nD @ vectors, values.clamp(min=0.0)
            found = []
            for eps in ridges:
                real = (values >= rounding) | (eps >= rounding)
                found.append(self._differences(rows * real / torch.sqrt(positive + eps)) / self.squared_M)
            return found
        values = torch.where(values < rounding, torch.zeros_like(values), values)
        return [
            (n - 1) * self._differences(vectors * torch.sqrt(values / (values + eps))) / self.squared_M
            for eps in ridges
        ]


def double_centred(gram: Tensor) -> Tensor:
    """Return Gram matrices (..., n, n) of rows about their mean."""
    row = gram.mean(dim=-1)
    return gram - row[..., :, None] - row[..., None, :] + row.mean(dim=-1)[..., None, None]


def middle(values_n: Tensor) -> Tensor:
    """Return the two middle order statistics, shape (2,); NumPy's median is their mean, torch.median the lower one."""
    ordered_n = torch.sort(values_n).values
    return torch.stack([ordered_n[(len(values_n) - 1) // 2], ordered_n[len(values_n) // 2]])


def lanczos(matrix: Tensor, start_D: Tensor, steps: int) -> Tensor:
    """Return diagonal and off-diagonal of the Lanczos matrix, (2, S), with full reorthogonalisation."""
    steps = min(steps, len(matrix))
    basis_SD = torch.empty(steps, len(matrix), dtype=matrix.dtype, device=matrix.device)
    diagonal, off = [], []
    vector_D = start_D / torch.linalg.vector_norm(start_D)
    for step in range(steps):
        basis_SD[step] = vector_D
        done_SD = basis_SD[: step + 1]
        vector_D = matrix @ vector_D
        diagonal.append(basis_SD[step] @ vector_D)
        for _ in range(2):
            vector_D = vector_D - (done_SD @ vector_D) @ done_SD
        off.append(torch.linalg.vector_norm(vector_D))
        vector_D = vector_D / off[-1].clamp(min=1e-300)
    return torch.stack([torch.stack(diagonal), torch.stack(off)])


def open_matrices(local_nmm: Tensor) -> tuple[Tensor, Tensor]:
    """Return which matrices' largest eigenvalue can be in the middle, and how many lie below (see `neighbourhoods.py`)."""
    n = len(local_nmm)
    trace_n = torch.einsum("nii->n", local_nmm)
    scale_n = torch.where(trace_n > 0, trace_n, torch.ones_like(trace_n))
    unit_nmm = local_nmm / scale_n[:, None, None]
    power8_nmm = unit_nmm @ unit_nmm
    power8_nmm = power8_nmm @ power8_nmm
    power8_nmm = power8_nmm @ power8_nmm
    upper_n = (power8_nmm * power8_nmm).sum(dim=(1, 2)) ** (1 / 16)
    longest_n = torch.einsum("nii->ni", power8_nmm).argmax(dim=1)
    vector_nm = torch.take_along_dim(power8_nmm, longest_n[:, None, None], dim=1)[:, 0, :]
    image_nm = (unit_nmm @ vector_nm[:, :, None])[:, :, 0]
    square_n = (vector_nm * vector_nm).sum(dim=1)
    lower_n = (vector_nm * image_nm).sum(dim=1) / torch.where(square_n > 0, square_n, torch.ones_like(square_n))
    lower_n, upper_n = lower_n * scale_n * (1 - 1e-12), upper_n * scale_n * (1 + 1e-12)
    least = torch.kthvalue(lower_n, (n - 1) // 2 + 1).values
    most = torch.kthvalue(upper_n, n // 2 + 1).values
    return (upper_n >= least) & (lower_n <= most), (upper_n < least).sum()


def torch_algebra(backend: str) -> Algebra:
    """Return the large operations of a pool on the device of `backend`."""
    device = device_of(backend)

    def load(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return (load(left) @ load(right)).cpu().numpy()

    def eigh(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = torch.linalg.eigh(load(matrix))
        return values.cpu().numpy(), vectors.cpu().numpy()

    def nearest(gram_NN: np.ndarray, depth: int) -> np.ndarray:
        gram = load(gram_NN)
        distance_NN = gram.diagonal()[None, :] - 2.0 * gram
        distance_NN.fill_diagonal_(float("inf"))
        return torch.topk(distance_NN, depth, dim=1, largest=False).indices.cpu().numpy().astype(np.int32)

    return Algebra(product, eigh, nearest)
