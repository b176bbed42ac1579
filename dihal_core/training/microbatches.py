"""One optimiser step in pieces: micro-batches whose gradients add up to that of the whole batch.

Letters: B windows of a batch, T positions.

Losses are means over counted states, so a piece enters with its share of them; times and noise were drawn
for the whole batch. What differs from the unsplit batch is float rounding alone. Where memory runs out the
pieces are halved and the same step is tried again. Ours: the paper says nothing about either.
"""

import dataclasses
import logging
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dihal_core.bridges.frame import Batch, Draws, TrainedArm
from dihal_core.errors import ResourceError
from dihal_core.memory import first_line, is_out_of_memory
from dihal_core.training.suffix import SuffixObjective

log = logging.getLogger(__name__)

RELIEF = (
    "lower corpus.window_tokens, bridge.width or bridge.context_width (unet: bridge.chunk_states or "
    "bridge.positions_per_sequence), train fewer layers side by side (compute.sweep_workers), or use a device with more "
    "memory"
)


@dataclasses.dataclass(frozen=True)
class StepLoss:
    """The loss of one arm on one batch, of which this process holds the windows `share`."""

    arm: TrainedArm
    batch: Batch
    """The windows `share`."""
    indices: np.ndarray
    """Windows of the whole batch."""
    share: slice
    draws: Draws
    """Of the whole batch."""
    total: int
    """Counted states of the whole batch."""
    autocast: torch.dtype | None
    suffix: SuffixObjective | None = None
    through: Draws | None = None
    """Draws of the losses through the upper blocks."""

    def piece(self, part: slice) -> Tensor:
        """Return what windows `part` of the whole batch add to the loss; pieces of all processes sum to the mean."""
        here = slice(part.start - self.share.start, part.stop - self.share.start)
        batch, draws = self.batch.rows(here), self.draws.rows(part)
        device, further = batch.mask_BT.device, None
        with torch.autocast(device.type, dtype=self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            error_BT = self._weighed(self.arm.errors(batch, draws), draws.t_BT)
            if self.suffix is not None and self.through is not None:
                further = self.suffix.share(self.arm, batch, self.indices, self.through, part)
        error_N = error_BT[batch.mask_BT & ~draws.t_BT.isnan()]
        loss = error_N.mean() if len(error_N) == self.total else error_N.sum() / self.total
        return loss if further is None else loss + further

    def _weighed(self, error_BT: Tensor, t_BT: Tensor) -> Tensor:
        """Weigh the diffusion (t < 1) and the reconstruction term (t = 1); weights of one change no bit."""
        factors = self.arm.direct_factors()
        below, end = factors["diffusion"], factors["reconstruction"]
        return error_BT if below == end == 1 else error_BT * torch.where(t_BT == 1, end, below)


def pieces(share: slice, size: int | None) -> list[slice]:
    """Split `share` into slices of `size` windows, the last one maybe shorter; None leaves it whole."""
    size = size or max(1, share.stop - share.start)
    return [slice(start, min(start + size, share.stop)) for start in range(share.start, share.stop, size)]


@dataclasses.dataclass
class MicroBatches:
    """Windows per forward and backward pass of one arm; only ever gets smaller."""

    size: int | None
    """None: the whole batch."""

    def backward(
        self, loss: StepLoss, what: str, check: Callable[[float], None], halved: Callable[[int, int], None]
    ) -> float:
        """Add the gradient of `loss` to the arm and return its value (this process's part of it).

        Parameters
        ----------
        what
            Names layer, arm and step in messages.
        check
            Gets the value of every piece before its gradient is taken.
        halved
            Gets the size that did not fit and the next one.

        Raises
        ------
        ResourceError
            If one window at a time does not fit either.
        """
        while True:
            try:
                return self._attempt(loss, check)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            # Out here the traceback, and with it the tensors of the failed attempt, is gone.
            loss.arm.zero_grad(set_to_none=True)
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            tried = min(self.size or loss.share.stop, loss.share.stop - loss.share.start)
            if tried <= 1:
                raise ResourceError(f"{what}: out of memory with one sequence at a time ({reason}); {RELIEF}")
            self.size = smaller = tried // 2
            halved(tried, smaller)
            log.warning(
                "%s: out of memory with %d sequences at a time; the step is repeated with %d", what, tried, smaller
            )

    def _attempt(self, loss: StepLoss, check: Callable[[float], None]) -> float:
        values = []
        for part in pieces(loss.share, self.size):
            piece = loss.piece(part)
            values.append(float(piece.detach()))
            check(values[-1])
            piece.backward()
        return math.fsum(values)
