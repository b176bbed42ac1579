"""Next-token and distillation losses: predicted states through the frozen upper blocks (paper section 3).

The paper trains on diffusion + reconstruction + next-token + logit distillation without stating weights or on
which positions; both are settings (ours). The teacher's logits are recomputed per batch and never stored.

An arm that denoises only some positions of a window leaves the true states at the others. The blocks are causal, so
before the first drawn position the prediction is the teacher's own whatever the arm does: the losses are means over
the scored tokens from that position on.

Letters: B windows, T positions, D hidden size, V vocabulary.
"""

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dihal_core.bridges.frame import Batch, Draws, TrainedArm
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
        """Return cross-entropy with the next token and KL(teacher || hybrid), nats per token that the arm reaches."""
        few = self._used(indices)
        draws = self.draw(arm, batch.mask_BT, generator)
        sums = self._sums(arm, batch.rows(few), indices[few], draws)
        reached = self._reached(indices, draws)
        return sums[0] / reached, sums[1] / reached

    def draw(self, arm: TrainedArm, mask_BT: Tensor, generator: torch.Generator) -> Draws:
        """Draw what is random about these losses, for all windows of the batch that they use."""
        return arm.draw_once(mask_BT[: self.windows], generator)

    def share(self, arm: TrainedArm, batch: Batch, indices: np.ndarray, draws: Draws, part: slice) -> Tensor | None:
        """Return what windows `part` of a batch add to the weighted sum, None where none of them is used.

        Parameters
        ----------
        batch
            The windows `part` alone.
        indices
            Windows of the whole batch.
        draws
            From `draw`, for the whole batch.
        """
        used = slice(part.start, min(part.stop, self._used(indices).stop))
        if used.start >= used.stop:
            return None
        here = slice(0, used.stop - used.start)
        next_token, distillation = self._sums(arm, batch.rows(here), indices[used], draws.rows(used))
        return (self.next_token * next_token + self.distillation * distillation) / self._reached(indices, draws)

    def _used(self, indices: np.ndarray) -> slice:
        return slice(0, min(self.windows, len(indices)))

    def _reached(self, indices: np.ndarray, draws: Draws) -> int:
        """Return how many tokens both losses are the mean of; at least 1, where no drawn state precedes a scored one."""
        return max(1, int(self._reached_mask(indices[self._used(indices)], draws).sum()))

    def _reached_mask(self, indices: np.ndarray, draws: Draws) -> Tensor:
        """Mark the scored tokens at or after the first drawn position of their window, (B, T)."""
        lengths_B = torch.from_numpy(self.source.windows.lengths_N[indices]).long().to(draws.t_BT.device)
        return scored_mask(lengths_B, draws.t_BT.shape[1]) & ((~draws.t_BT.isnan()).cumsum(dim=1) > 0)

    def _hidden(self, arm: TrainedArm, part: Batch, indices: np.ndarray, draws: Draws) -> Tensor:
        """Return the states that enter the upper blocks: the arm's where they were drawn, the true ones elsewhere."""
        hidden_BTD = self.source.frame.finish(arm.estimate_once(part, draws))
        left_BT = part.mask_BT & draws.t_BT.isnan()
        if not bool(left_BT.any()):
            return hidden_BTD
        # The batch's own targets are clipped for the squared error; a clipped outlier is no state of the model.
        with torch.no_grad(), torch.autocast(hidden_BTD.device.type, enabled=False):
            truth_BTD = self.source.targets.states(indices).to(hidden_BTD.dtype)
        return torch.where(left_BT[..., None], truth_BTD, hidden_BTD)

    def _sums(self, arm: TrainedArm, part: Batch, indices: np.ndarray, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return both losses summed over the tokens of the windows `indices` that the arm reaches."""
        backbone = self.source.backbone
        tokens_BT = torch.from_numpy(self.source.windows.tokens_NT[indices]).long()
        hidden_BTD = self._hidden(arm, part, indices, draws)
        device = hidden_BTD.device
        mask_BT = self._reached_mask(indices, draws).to(device)
        student_NV = backbone.logits(backbone.suffix(self.layer)(hidden_BTD)[mask_BT]).float()
        with torch.no_grad():
            teacher_NV = torch.log_softmax(backbone.logits(backbone.final(tokens_BT)[mask_BT]).float(), dim=-1)
        following_N = tokens_BT.to(device)[:, 1:][mask_BT[:, :-1]]
        student_NV = torch.log_softmax(student_NV, dim=-1)
        return (
            F.nll_loss(student_NV, following_N, reduction="sum"),
            F.kl_div(student_NV, teacher_NV, log_target=True, reduction="sum"),
        )
