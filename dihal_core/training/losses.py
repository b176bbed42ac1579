"""Validation losses of the arms of a layer.

Letters: N rows (token states), B windows of a batch, T positions, D hidden size.

FVU, the fraction of variance unexplained, is the headline: squared error over variance, both per
dimension in units of the training scale and unclipped, so 1 is predicting the training mean and layers
of any norm compare. The raw errors stand beside it, and `paper_bridge_loss` is the objective each arm
was trained on, on validation (paper section 4: validation bridge loss; which terms, is recorded).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dihal_core.bridges.arms import predict_all
from dihal_core.bridges.fitting import LayerFacts
from dihal_core.bridges.frame import Arm, Batch, TrainedArm
from dihal_core.progress import Progress, silent
from dihal_core.seeding import torch_seed
from dihal_core.training.batches import BatchSource
from dihal_core.training.suffix import SuffixObjective

BATCH_WINDOWS = 16
"""Windows per validation batch: part of the result's last bits, so it is fixed."""


@dataclasses.dataclass
class ErrorRows:
    """Squared errors per state, summed over dimensions, float64."""

    standardised_N: np.ndarray
    raw_N: np.ndarray


@dataclasses.dataclass(frozen=True)
class ValidationErrors:
    """Errors of all arms on the same states, and what they are compared with."""

    arms: dict[str, ErrorRows]
    variance_N: np.ndarray
    """Squared distance from the training mean in training scales: the denominator of FVU."""
    raw_variance_N: np.ndarray
    outlier_N: np.ndarray
    document_N: np.ndarray
    width: int

    def summary(self, arm: str) -> dict[str, float]:
        """Return FVU (with and without outlier tokens), relative and raw MSE of one arm."""
        rows, kept = self.arms[arm], ~self.outlier_N
        return {
            "fvu": float(rows.standardised_N.sum() / self.variance_N.sum()),
            "fvu_without_outliers": float(rows.standardised_N[kept].sum() / self.variance_N[kept].sum()),
            "relative_mse": float(rows.raw_N.sum() / self.raw_variance_N.sum()),
            "raw_mse": float(rows.raw_N.mean() / self.width),
        }

    def per_document(self, arm: str) -> dict[str, list[Any]]:
        """Return the numerator and denominator of FVU by document, for resampling."""
        documents, row_N = np.unique(self.document_N, return_inverse=True)
        return {
            "document": documents.tolist(),
            "sse": np.bincount(row_N, self.arms[arm].standardised_N).tolist(),
            "sst": np.bincount(row_N, self.variance_N).tolist(),
        }


@torch.no_grad()
def validation_errors(
    arms: Mapping[str, Arm],
    source: BatchSource,
    windows: np.ndarray,
    facts: LayerFacts,
    outlier_ratio: float,
    progress: Progress = silent,
) -> ValidationErrors:
    """Measure one-step predictions of every arm on the states of `windows`.

    Outlier tokens are those whose norm exceeds `outlier_ratio` times the median norm of the fitted
    training states (ours).
    """
    collected: dict[str, list[np.ndarray]] = {}

    def collect(name: str, values_N: Tensor) -> None:
        collected.setdefault(name, []).append(values_N.cpu().numpy())

    for start in range(0, len(windows), BATCH_WINDOWS):
        progress(start, len(windows), "windows")
        indices = windows[start : start + BATCH_WINDOWS]
        mask_BT = source.mask(indices)
        truth_BTD = source.targets.states(indices).float()
        mask = mask_BT.to(truth_BTD.device)
        truth_ND = truth_BTD[mask]
        frame = source.frame
        collect("variance", _row_sums(frame.target(truth_ND)))
        collect("raw_variance", _row_sums(truth_ND - facts.mean_D))
        collect("outlier", torch.linalg.vector_norm(truth_ND, dim=-1) > outlier_ratio * facts.median_norm)
        collect("document", torch.from_numpy(source.windows.document_N[indices])[:, None].expand_as(mask_BT)[mask_BT])
        for name, hidden_BTD in predict_all(arms, source.embed(indices)).items():
            error_ND = hidden_BTD[mask] - truth_ND
            collect(f"{name}/raw", _row_sums(error_ND))
            collect(f"{name}/standardised", _row_sums(error_ND / frame.target.scale_D))
    joined = {name: np.concatenate(parts) for name, parts in collected.items()}
    return ValidationErrors(
        {name: ErrorRows(joined[f"{name}/standardised"], joined[f"{name}/raw"]) for name in arms},
        joined["variance"],
        joined["raw_variance"],
        joined["outlier"],
        joined["document"],
        source.frame.width,
    )


@torch.no_grad()
def objective_loss(
    arm: TrainedArm,
    source: BatchSource,
    windows: np.ndarray,
    seed: int,
    autocast: torch.dtype | None,
    suffix: SuffixObjective | None = None,
    progress: Progress = silent,
) -> float:
    """Return the weighted objective of `arm` on `windows`: the same terms, clip and autocast as in training.

    Times and noise come from their own stream, the same for every arm and layer.
    """
    terms = {"diffusion": [0.0, 0], "reconstruction": [0.0, 0]}
    through: list[float] = []
    for start in range(0, len(windows), BATCH_WINDOWS):
        progress(start, len(windows), "windows")
        batch: Batch = source.load(windows[start : start + BATCH_WINDOWS], autocast)
        device = batch.mask_BT.device
        generator = torch.Generator(device=device).manual_seed(torch_seed(seed, "validation noise", start))
        with torch.autocast(device.type, dtype=autocast or torch.bfloat16, enabled=autocast is not None):
            error_BT, t_BT = arm.row_errors(batch, generator)
            if suffix is not None:
                through.append(float(suffix.loss(arm, batch, windows[start : start + BATCH_WINDOWS], generator)))
        for name, chosen_BT in (("diffusion", t_BT < 1), ("reconstruction", t_BT == 1)):
            picked_N = error_BT[batch.mask_BT & chosen_BT]
            terms[name][0] += float(picked_N.sum(dtype=torch.float64))
            terms[name][1] += len(picked_N)
    weights, shares = arm.objective(), arm.direct_shares()
    present = [name for name, (_, count) in terms.items() if count]
    total = sum(weights[name] * terms[name][0] / terms[name][1] for name in present)
    drawn = sum(shares[name] for name in present)  # 1, unless so few states were drawn that a term had none
    return total / drawn + (sum(through) / len(through) if through else 0.0)


def _row_sums(error_ND: Tensor) -> Tensor:
    return error_ND.square().sum(dim=-1, dtype=torch.float64)
