"""One arm of the comparison of bridge architectures: fitted in closed form, or trained with one seed and timed.

A training that was interrupted resumes from its checkpoint; one that had ended is found again.
"""

import time
from typing import Any, cast

import numpy as np

from dihal_core.bridges.ablation_arms import AblationArm
from dihal_core.bridges.arms import own_state
from dihal_core.bridges.frame import Arm
from dihal_core.bridges.regressor import RidgeArm
from dihal_core.config import BridgeBase
from dihal_core.contract import StageContext
from dihal_core.errors import ConfigError
from dihal_core.progress import Progress
from dihal_core.training.batches import BatchSource
from dihal_core.training.checkpoints import Checkpoints
from dihal_core.training.closed_form import seen_windows, table_arm, wide_ridge_arm
from dihal_core.training.loop import train
from dihal_core.training.results import Trained, find_trained, fresh_arms, keep_trained, trained_arms
from dihal_core.training.suffix import SuffixObjective

CLOCK = "training-clock"
"""Commit record that holds seconds: records are no part of a store's digest."""


def obtain_arm(
    context: StageContext,
    spec: AblationArm,
    bridge: BridgeBase,
    layer: int,
    seed: int,
    source: BatchSource,
    train_windows: np.ndarray,
    progress: Progress,
) -> tuple[dict[str, Arm], Trained, int | None]:
    """Return the arm, trained by this attempt or an earlier one, and the states a ridge map of its own was fitted on.

    Raises
    ------
    ConfigError
        If this backbone can have no per-token table, or the arm's line in the registry contradicts its class.
    NumericsError
        If training diverges.
    """
    if spec.arm == "table":
        return {"table": _table(source, layer, train_windows)}, Trained({}, {}, {}), None
    if spec.arm == "ridge-all":
        seen = seen_windows(context.settings.ablation.training, train_windows, bridge.ridge_windows, seed)
        arm, states = wide_ridge_arm(source, layer, seen, bridge.ridge_penalty, progress)
        return {"ridge-all": arm}, Trained({}, {}, {}), states
    arms = fresh_arms((spec.arm,), cast(Any, bridge), source.frame, seed)
    learning = trained_arms(arms)
    if bool(learning) != spec.trained:
        raise ConfigError(
            f"arm {spec.arm!r} is registered with trained={spec.trained}, but its class says otherwise; correct its "
            "line in dihal_core/bridges/ablation_arms.py"
        )
    if not learning:
        return arms, Trained({}, {}, {}), None
    found = find_trained(context.store, source.frame.sink_D.device)
    if found is not None:
        return *found, None
    clock = Clock(progress)
    runs = train(
        learning,
        source,
        train_windows,
        context.settings.ablation.training,
        seed,
        f"layer {layer}",
        Checkpoints(context.store.path),
        clock,
        suffix=SuffixObjective.of(source, layer, bridge),
    )
    context.store.commit(CLOCK, clock.seconds())
    return arms, keep_trained(context.store, arms, runs, bridge, layer), None


def _table(source: BatchSource, layer: int, train_windows: np.ndarray) -> Arm:
    table = table_arm(source, layer, train_windows)
    if table is None:
        raise ConfigError(
            "the embedding output of this backbone holds positions, so no per-token table can be made of it; leave "
            "`table` out of ablation.arms (`dihal ablate --arms ...`)"
        )
    return table


def fitted_parameters(arm: Arm) -> int:
    """Return how many numbers an arm without gradient steps was fitted with, beside the frame it shares."""
    own = sum(tensor.numel() for tensor in own_state(arm).values())
    if isinstance(arm, RidgeArm):
        own += sum(tensor.numel() for tensor in arm.frame.ridge.state_dict().values())
    return own


class Clock:
    """Times the steps of one attempt; a resumed training is scaled to all of its steps."""

    def __init__(self, progress: Progress):
        self.progress = progress
        self.wall, self.cpu = time.monotonic(), time.process_time()
        self.first: float | None = None
        self.total = 1.0

    def __call__(self, done: float, total: float, unit: str) -> None:
        self.first = done if self.first is None else self.first
        self.total = total
        self.progress(done, total, unit)

    def seconds(self) -> dict[str, float]:
        """Return wall and CPU seconds of the whole training."""
        scale = self.total / max(1.0, self.total - (self.first or 0.0))
        return {
            "wall_seconds": round((time.monotonic() - self.wall) * scale, 3),
            "cpu_seconds": round((time.process_time() - self.cpu) * scale, 3),
        }
