"""Next-token and distillation losses: predicted states through the frozen upper blocks (paper section 3).

The paper trains on diffusion + reconstruction + next-token + logit distillation without stating weights or on
which positions; both are settings (ours). The teacher's logits are recomputed per batch and never stored.

Letters: B windows, T positions, D hidden size, V vocabulary.
"""

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dihal_core.bridges.frame import Batch, TrainedArm
from dihal_core.config import BridgeBase
from dihal_core.evaluation.likelihood import scored_mask
from dihal_core.training.batches import BatchSource


@dataclasses.dataclass(frozen=True)
class SuffixObjective:
    """Weights of the two losses, and the frozen model that turns a state of `layer` into logits."""

    source: BatchSource
    layer: int
    next_token: float
    distillation: float
    windows: int
    """Windows of each batch that go through the upper blocks."""

    @classmethod
    def of(cls, source: BatchSource, layer: int, settings: BridgeBase) -> "SuffixObjective | None":
        """Return the objective that `settings` weigh, None where both weights are zero."""
        if settings.next_token_weight == 0 and settings.distillation_weight == 0:
            return None
        return cls(source, layer, settings.next_token_weight, settings.distillation_weight, settings.suffix_windows)

    def loss(self, arm: TrainedArm, batch: Batch, indices: np.ndarray, generator: torch.Generator) -> Tensor:
        """Return the weighted sum for the first windows of a batch; gradients reach the arm alone."""
        next_token, distillation = self.terms(arm, batch, indices, generator)
        return self.next_token * next_token + self.distillation * distillation

    def terms(
        self, arm: TrainedArm, batch: Batch, indices: np.ndarray, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return cross-entropy with the next token and KL(teacher || hybrid), nats per scored token."""
        few, backbone = min(self.windows, len(indices)), self.source.backbone
        part = Batch(*(tensor[:few] for tensor in dataclasses.astuple(batch)))
        tokens_BT = torch.from_numpy(self.source.windows.tokens_NT[indices[:few]]).long()
        lengths_B = torch.from_numpy(self.source.windows.lengths_N[indices[:few]]).long()
        hidden_BTD = self.source.frame.finish(arm.one_step(part, generator))
        device = hidden_BTD.device
        mask_BT = scored_mask(lengths_B.to(device), tokens_BT.shape[1])
        student_NV = backbone.logits(backbone.suffix(self.layer)(hidden_BTD)[mask_BT]).float()
        with torch.no_grad():
            teacher_NV = torch.log_softmax(backbone.logits(backbone.final(tokens_BT)[mask_BT]).float(), dim=-1)
        following_N = tokens_BT.to(device)[:, 1:][mask_BT[:, :-1]]
        student_NV = torch.log_softmax(student_NV, dim=-1)
        return (
            F.nll_loss(student_NV, following_N),
            F.kl_div(student_NV, teacher_NV, log_target=True, reduction="batchmean"),
        )
