"""NLL, KL to the teacher and top-1 agreement of predictions made from a replaced hidden state.

Letters: B windows, T positions, D hidden size, N scored predictions, V vocabulary.
Position t predicts token t + 1. Scored are 1 <= t <= length - 2: position 0 holds the constant
state of the prefix token, and the last token predicts nothing that is there.
"""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import torch

from dihal_core.backbones.backbone import Backbone
from dihal_core.errors import ConfigError, NumericsError

CHUNK_LOGITS = 2**23
"""Logits held per chunk (tokens x vocabulary): about 30 MB a buffer at any vocabulary, and kind to caches."""


@dataclasses.dataclass(frozen=True)
class TokenMetrics:
    """Per prediction, nats, float64; zero where `mask_BT` is False."""

    nll_BT: np.ndarray
    kl_BT: np.ndarray
    """KL(teacher || hybrid)."""
    top1_BT: np.ndarray
    """1 where teacher and hybrid agree on the most likely token."""
    teacher_nll_BT: np.ndarray
    mask_BT: np.ndarray

    @property
    def tokens(self) -> int:
        """Number of scored predictions."""
        return int(self.mask_BT.sum())

    def mean(self, name: str) -> float:
        """Return the token mean of `nll`, `kl`, `top1` or `teacher_nll`: sum over sum, not a mean of windows."""
        return float(getattr(self, f"{name}_BT").sum() / max(self.tokens, 1))


def scored_mask(lengths_B: torch.Tensor, positions: int) -> torch.Tensor:
    """Return mask_BT, True where a prediction is scored: 1 <= t <= length - 2."""
    position_T = torch.arange(positions, device=lengths_B.device)
    return (position_T >= 1) & (position_T <= lengths_B[:, None] - 2)


def suffix_metrics(
    backbone: Backbone,
    layer: int,
    hidden_BTD: torch.Tensor,
    tokens_BT: torch.Tensor,
    lengths_B: torch.Tensor,
    teacher_final_BTD: torch.Tensor,
) -> TokenMetrics:
    """Score the predictions that follow from `hidden_BTD` standing in for state `layer`.

    Parameters
    ----------
    hidden_BTD
        Replaced states in the backbone's scale, any float dtype.
    tokens_BT, lengths_B
        Right-padded windows and their lengths, prefix token included.
    teacher_final_BTD
        `backbone.final(tokens_BT)`, computed once by the caller.

    Raises
    ------
    NumericsError
        If a prediction is not finite, naming the window.
    """
    with torch.no_grad():
        final_BTD = backbone.suffix(layer)(hidden_BTD)
    return score_finals(backbone, {f"layer {layer}": final_BTD}, tokens_BT, lengths_B, teacher_final_BTD)[
        f"layer {layer}"
    ]


@torch.no_grad()
def score_finals(
    backbone: Backbone,
    finals: Mapping[str, torch.Tensor],
    tokens_BT: torch.Tensor,
    lengths_B: torch.Tensor,
    teacher_final_BTD: torch.Tensor,
) -> dict[str, TokenMetrics]:
    """Score several arms at once: the teacher's distribution of each chunk is computed one time.

    Both sides go through the same head matmul in chunks of the same shape, so an arm whose final
    states equal the teacher's has a KL of exactly 0. Log-softmax and sums over the vocabulary are float32, sums over
    tokens float64.

    Parameters
    ----------
    finals
        `{arm: final_BTD}`, states after the final norm.

    Raises
    ------
    NumericsError
        If a prediction is not finite, naming arm and window.
    """
    device = teacher_final_BTD.device
    tokens_BT = tokens_BT.to(device=device, dtype=torch.long)
    mask_BT = scored_mask(lengths_B.to(device), tokens_BT.shape[1])
    for arm, final_BTD in finals.items():
        if final_BTD.shape != teacher_final_BTD.shape:
            raise ConfigError(
                f"{arm} has final states of shape {tuple(final_BTD.shape)}, the teacher "
                f"{tuple(teacher_final_BTD.shape)}; score both on the same windows"
            )
    next_N = tokens_BT[:, 1:][mask_BT[:, :-1]]
    teacher_ND = teacher_final_BTD[mask_BT]
    arm_ND = {arm: final_BTD[mask_BT] for arm, final_BTD in finals.items()}
    # Filled in place: small results kept from every chunk would settle in the holes that the freed chunks of logits
    # leave, and the heap would grow by a chunk each time.
    column_N = functools.partial(torch.empty, len(next_N), dtype=torch.float32, device=device)
    columns = {arm: {name: column_N() for name in ("nll", "kl", "top1")} for arm in finals}
    teacher_nll_N = column_N()
    step = max(16, CHUNK_LOGITS // backbone.vocab_size)
    for start in range(0, len(next_N), step):
        rows = slice(start, start + step)
        target_N1 = next_N[rows, None]
        teacher_NV = _log_probabilities(backbone, teacher_ND[rows])
        probability_NV, best_N = teacher_NV.exp(), teacher_NV.argmax(dim=-1)
        teacher_nll_N[rows] = -teacher_NV.gather(1, target_N1)[:, 0]
        for arm, column in columns.items():
            arm_NV = _log_probabilities(backbone, arm_ND[arm][rows])
            column["nll"][rows] = -arm_NV.gather(1, target_N1)[:, 0]
            column["top1"][rows] = (arm_NV.argmax(dim=-1) == best_N).float()
            difference_NV = torch.sub(teacher_NV, arm_NV, out=arm_NV)
            column["kl"][rows] = torch.linalg.vecdot(difference_NV, probability_NV)
    shared = {"teacher_nll_BT": _scatter(teacher_nll_N, mask_BT), "mask_BT": mask_BT.cpu().numpy()}
    _require_finite("teacher", shared["teacher_nll_BT"])
    metrics = {}
    for arm, column in columns.items():
        values = {f"{name}_BT": _scatter(values_N, mask_BT) for name, values_N in column.items()}
        _require_finite(arm, values["nll_BT"] + values["kl_BT"])
        metrics[arm] = TokenMetrics(**values, **shared)
    return metrics


def _log_probabilities(backbone: Backbone, final_ND: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(backbone.logits(final_ND).float(), dim=-1)


def _scatter(values_N: torch.Tensor, mask_BT: torch.Tensor) -> np.ndarray:
    values_BT = torch.zeros(mask_BT.shape, dtype=torch.float64, device=mask_BT.device)
    values_BT[mask_BT] = values_N.double()
    return values_BT.cpu().numpy()


def _require_finite(arm: str, values_BT: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(values_BT).all(axis=1))
    if len(bad):
        raise NumericsError(
            f"{arm}: predictions of window {int(bad[0])} of the batch are not finite ({len(bad)} windows affected); "
            "its hidden states left the range of the model: train the bridge again with a lower learning rate"
        )
