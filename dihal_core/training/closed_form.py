"""Controls that take no gradient steps but see every window the bridge sees: fitted here for every stage that trains.

Letters: N windows.
"""

import numpy as np
import torch

from dihal_core.bridges.table import TableArm, fit_table
from dihal_core.bridges.wide_ridge import WideRidgeArm, fit_wide_ridge
from dihal_core.config import TrainingSettings
from dihal_core.progress import Progress, silent
from dihal_core.training.batches import BatchSource, batch_windows, total_steps


def seen_windows(training: TrainingSettings, train_windows: np.ndarray, ridge_windows: int, seed: int) -> np.ndarray:
    """Return the windows that a bridge trained with `seed` depends on, sorted.

    Those that its steps visit (a cap may leave some out), and the first `ridge_windows`, on which its frozen base was
    fitted: so the map of all windows never sees less than the base.
    """
    steps, batch = total_steps(training, len(train_windows)), training.batch_sequences
    if steps * batch >= len(train_windows):
        return np.sort(train_windows)
    visited = [batch_windows(train_windows, batch, step, seed) for step in range(steps)]
    return np.unique(np.concatenate([train_windows[:ridge_windows], *visited]))


def table_arm(source: BatchSource, layer: int, windows: np.ndarray) -> TableArm | None:
    """Return the per-token table of `windows`, or None for a backbone whose embedding output names no token."""
    return fit_table(
        source.frame,
        source.backbone.embed,
        source.targets.states,
        source.windows.tokens_NT,
        torch.from_numpy(source.windows.lengths_N).long(),
        windows,
        f"layer {layer}",
    )


def wide_ridge_arm(
    source: BatchSource, layer: int, windows: np.ndarray, penalty: float, progress: Progress = silent
) -> tuple[WideRidgeArm, int]:
    """Return the ridge map of `windows` and the number of token states it was fitted on."""
    lengths_N = torch.from_numpy(source.windows.lengths_N).long()
    return fit_wide_ridge(
        source.frame, source.embed, source.targets.states, lengths_N, windows, penalty, f"layer {layer}", progress
    )
