"""KL to the teacher and NLL of arms through the suffix, on a few validation windows per layer.

Letters: B windows of a batch, T positions, D hidden size.

FVU alone can mislead between methods: how much an error matters depends on the blocks above it.
"""

import dataclasses
import threading
import weakref
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from dihal_core.backbones.backbone import Backbone
from dihal_core.bridges.arms import predict_all
from dihal_core.bridges.frame import Arm
from dihal_core.corpus.windows import Windows
from dihal_core.evaluation.likelihood import score_finals
from dihal_core.progress import Progress, silent
from dihal_core.training.batches import BatchSource

BATCH_WINDOWS = 6
"""Windows per forward of the suffix: part of the result's last bits, so it is fixed."""

_lock = threading.Lock()


@dataclasses.dataclass
class _Cached:
    """Final states of one backbone on one set of windows."""

    backbone: weakref.ref[Backbone]
    key: tuple[object, ...]
    finals: list[Tensor]


_latest: list[_Cached] = []


def teacher_finals(backbone: Backbone, windows: Windows, indices: np.ndarray, identity: str) -> list[Tensor]:
    """Return the teacher's final states of `indices`, batch by batch; layers of one process share them.

    `identity` names the corpus; only the last set asked for is kept.
    """
    key = (identity, tuple(indices.tolist()))
    with _lock:
        if not _latest or _latest[0].backbone() is not backbone or _latest[0].key != key:
            finals = [backbone.final(_tokens(windows, batch)) for batch in _batches(indices)]
            _latest[:] = [_Cached(weakref.ref(backbone), key, finals)]
        return _latest[0].finals


def suffix_likelihood(
    arms: Mapping[str, Arm],
    source: BatchSource,
    layer: int,
    indices: np.ndarray,
    identity: str,
    progress: Progress = silent,
) -> tuple[dict[str, dict[str, float]], float | None, int]:
    """Return `{arm: {kl, nll}}` in nats per token, the teacher's NLL, and the number of scored tokens."""
    backbone, windows = source.backbone, source.windows
    sums = {arm: {"kl": 0.0, "nll": 0.0} for arm in arms}
    teacher, tokens = 0.0, 0
    finals = teacher_finals(backbone, windows, indices, identity)
    suffix = backbone.suffix(layer)
    for done, (batch, teacher_BTD) in enumerate(zip(_batches(indices), finals, strict=True)):
        progress(done, len(finals), "likelihood batches")
        with torch.no_grad():
            hybrid = {name: suffix(hidden_BTD) for name, hidden_BTD in predict_all(arms, source.embed(batch)).items()}
        lengths_B = torch.from_numpy(windows.lengths_N[batch]).long()
        metrics = score_finals(backbone, hybrid, _tokens(windows, batch), lengths_B, teacher_BTD)
        for name, measured in metrics.items():
            sums[name]["kl"] += float(measured.kl_BT.sum())
            sums[name]["nll"] += float(measured.nll_BT.sum())
        first = next(iter(metrics.values()))
        teacher += float(first.teacher_nll_BT.sum())
        tokens += first.tokens
    if not tokens:
        return {}, None, 0
    return {arm: {k: v / tokens for k, v in values.items()} for arm, values in sums.items()}, teacher / tokens, tokens


def _batches(indices: np.ndarray) -> list[np.ndarray]:
    return [indices[start : start + BATCH_WINDOWS] for start in range(0, len(indices), BATCH_WINDOWS)]


def _tokens(windows: Windows, batch: np.ndarray) -> Tensor:
    return torch.from_numpy(windows.tokens_NT[batch]).long()
