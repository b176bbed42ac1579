"""Batches that every arm and every layer sees alike: same windows, same order, same noise.

Letters: N windows, B windows of a batch, T positions, D hidden size.
"""

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from dihal_core.backbones.backbone import Backbone
from dihal_core.bridges.frame import Batch, Frame
from dihal_core.bridges.standardise import state_mask
from dihal_core.config import TrainingSettings
from dihal_core.corpus.windows import Windows
from dihal_core.seeding import stream, torch_seed
from dihal_core.training.targets import TargetSource


def total_steps(settings: TrainingSettings, windows: int) -> int:
    """Return optimiser steps: the epochs' worth of batches, capped by `max_steps`, at least 1."""
    steps = max(1, math.ceil(settings.epochs * windows / settings.batch_sequences))
    return min(steps, settings.max_steps or steps)


def batch_windows(windows: np.ndarray, batch: int, step: int, seed: int) -> np.ndarray:
    """Return the windows of batch `step`: consecutive slices of one shuffled pass after another.

    Depends on (seed, step) only, so a resumed run needs no position in the data.
    """
    first, last = step * batch, (step + 1) * batch
    N = len(windows)
    passes = range(first // N, (last - 1) // N + 1)
    shuffled = np.concatenate([stream(seed, "training order", index).permutation(windows) for index in passes])
    offset = first - passes.start * N
    return shuffled[offset : offset + batch]


def noise_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Return the generator of a step's times and noise, the same for every arm and layer."""
    return torch.Generator(device=device).manual_seed(torch_seed(seed, "training noise", step))


@dataclasses.dataclass(frozen=True)
class BatchSource:
    """Makes standardised batches out of a backbone, a frame and a target source."""

    backbone: Backbone
    windows: Windows
    targets: TargetSource
    frame: Frame
    clip_sd: float

    def with_frame(self, frame: Frame) -> "BatchSource":
        """Return the same source around another frame."""
        return dataclasses.replace(self, frame=frame)

    @torch.no_grad()
    def load(self, indices: np.ndarray, autocast: torch.dtype | None = None) -> Batch:
        """Return the batch of these windows; targets are clipped at `clip_sd` for the training loss.

        The ridge base runs in `autocast`, where its rounding (2^-9) is far below its error.
        """
        embeddings_BTD = self.embed(indices)
        device = embeddings_BTD.device
        condition_BTD = self.frame.condition(embeddings_BTD)
        with torch.autocast(device.type, dtype=autocast or torch.bfloat16, enabled=autocast is not None):
            base_BTD = self.frame.ridge(condition_BTD).float()
        target_BTD = self.frame.target(self.targets.states(indices)).clamp_(-self.clip_sd, self.clip_sd)
        return Batch(condition_BTD, base_BTD, target_BTD, self.mask(indices).to(device))

    def embed(self, indices: np.ndarray) -> Tensor:
        """Return the embedding states of these windows."""
        return self.backbone.embed(torch.from_numpy(self.windows.tokens_NT[indices]))

    def mask(self, indices: np.ndarray) -> Tensor:
        """Mark the states that count, (B, T)."""
        lengths_B = torch.from_numpy(self.windows.lengths_N[indices]).long()
        return state_mask(lengths_B, self.windows.tokens_NT.shape[1])
