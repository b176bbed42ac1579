"""The training loop: several arms side by side on identical batches.

Letters: B windows of a batch, T positions.

Same seed and threads, same bits: batch, times and noise of a step depend on (seed, step) alone, not on
the layer, on other arms, or on where an interrupted run was resumed.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dihal_core.bridges.arms import own_state
from dihal_core.bridges.frame import Batch, TrainedArm
from dihal_core.config import TrainingSettings
from dihal_core.errors import NumericsError
from dihal_core.progress import Progress, StopRequested, silent
from dihal_core.training.batches import BatchSource, batch_windows, noise_generator, total_steps
from dihal_core.training.budget import Ledger
from dihal_core.training.checkpoints import Checkpoints
from dihal_core.training.optimizers import Optimizers, rate_factor
from dihal_core.training.suffix import SuffixObjective

Observe = Callable[[], dict[str, dict[str, float]]]

CURVE_POINTS = 60
"""Points of a training curve, each the mean over the steps since the last."""


@dataclasses.dataclass
class Run:
    """One arm while it trains."""

    arm: TrainedArm
    optimizers: Optimizers
    ledger: Ledger
    curve: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    pending: list[float] = dataclasses.field(default_factory=list)
    """Losses since the last point of the curve."""
    observations: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """What `observe` measured on the way."""
    average: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """Exponential average of the weights by name; empty without `ema_decay`."""


LISTS = ("curve", "pending", "observations")


def train(
    arms: Mapping[str, TrainedArm],
    source: BatchSource,
    windows: np.ndarray,
    settings: TrainingSettings,
    seed: int,
    what: str,
    checkpoints: Checkpoints | None = None,
    progress: Progress = silent,
    observe: Observe | None = None,
    suffix: SuffixObjective | None = None,
) -> dict[str, Run]:
    """Train `arms` in place and return their ledgers and curves.

    Parameters
    ----------
    arms : mapping
        Arms of one frame, in eval mode (they hold no dropout).
    source : BatchSource
        Makes batches from indices of windows.
    windows : ndarray of int
        Training windows.
    seed : int
        Root seed of order and noise.
    what : str
        Names the layer in errors.
    checkpoints : Checkpoints, optional
        Where to save and resume.
    observe : callable, optional
        Measures the arms every `checkpoint_steps` steps and at the end: `{arm: {quantity: value}}`.
    suffix : SuffixObjective, optional
        Next-token and distillation losses, added to every arm's own.

    Raises
    ------
    NumericsError
        If a loss or gradient is not finite, naming layer, arm and step; the last checkpoint is kept.
    StopRequested
        If `progress` asks to stop; the finished steps are saved first.
    """
    steps = total_steps(settings, len(windows))
    iterations = settings.muon_iterations if settings.optimizer == "muon" else 0
    positions = source.windows.tokens_NT.shape[1]
    runs = {
        name: Run(arm.requires_grad_(True), Optimizers(arm, settings), Ledger.of(arm, positions, iterations))
        for name, arm in arms.items()
    }
    if settings.ema_decay is not None:
        for run in runs.values():
            run.average = {name: weight.detach().clone() for name, weight in run.arm.named_parameters()}
    first = _resume(runs, checkpoints)

    def order() -> Iterator[np.ndarray]:
        return (batch_windows(windows, settings.batch_sequences, step, seed) for step in range(first, steps))

    with source.targets.reading_ahead(order()):
        for step, indices in enumerate(order(), start=first):
            _report(progress, step, steps, runs, checkpoints if step > first else None)
            batch = source.load(indices, autocast_dtype(settings))
            for name, run in runs.items():
                extra = None if suffix is None else functools.partial(suffix.loss, run.arm, batch, indices)
                loss, counted = _step(run, batch, settings, step, steps, seed, f"{what}, {name}", extra)
                _record(run, loss, counted, batch, step, steps)
                _follow(run, settings.ema_decay, step)
            due = (step + 1) % settings.checkpoint_steps == 0
            if observe is not None and (due or step + 1 == steps):
                for name, measured in observe().items():
                    runs[name].observations.append({"step": step + 1, **measured})
            if checkpoints is not None and due and step + 1 < steps:
                _save(runs, checkpoints, step + 1)
    for name, arm in arms.items():
        arm.requires_grad_(False)
        for key, weight in arm.named_parameters():
            weight.copy_(runs[name].average.get(key, weight))
    return runs


def _report(progress: Progress, done: int, steps: int, runs: dict[str, Run], checkpoints: Checkpoints | None) -> None:
    try:
        progress(done, steps, "steps")
    except StopRequested:
        if checkpoints is not None:
            _save(runs, checkpoints, done)
        raise


@torch.no_grad()
def _follow(run: Run, decay: float | None, step: int) -> None:
    """Move the average towards the weights; early steps weigh more, so that the random start is forgotten."""
    if decay is not None:
        share = 1 - min(decay, (1 + step) / (10 + step))
        for name, weight in run.arm.named_parameters():
            run.average[name].lerp_(weight.detach(), share)


def autocast_dtype(settings: TrainingSettings) -> torch.dtype | None:
    """Return the dtype of mixed precision, or None for full float32."""
    return torch.bfloat16 if settings.autocast == "bfloat16" else None


def _step(
    run: Run,
    batch: Batch,
    settings: TrainingSettings,
    step: int,
    steps: int,
    seed: int,
    what: str,
    extra: Callable[[torch.Generator], Tensor] | None = None,
) -> tuple[float, int]:
    """Return the loss and how many states it is the mean of."""
    device = batch.mask_BT.device
    generator = noise_generator(seed, step, device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings.autocast == "bfloat16"):
        error_BT, t_BT = run.arm.row_errors(batch, generator)
        further = None if extra is None else extra(generator)
    counted_BT = batch.mask_BT & ~t_BT.isnan()
    loss = error_BT[counted_BT].mean()
    if further is not None:
        loss = loss + further
    value = float(loss.detach())
    if not math.isfinite(value):
        raise _diverged("loss", value, step, steps, what)
    loss.backward()
    norm = run.optimizers.step(rate_factor(step, steps, settings.warmup_steps))
    if not math.isfinite(norm):
        raise _diverged("gradient norm", norm, step, steps, what)
    return value, int(counted_BT.sum())


def _diverged(quantity: str, value: float, step: int, steps: int, what: str) -> NumericsError:
    return NumericsError(
        f"{what}: {quantity} is {value} at step {step + 1} of {steps}; lower training.learning_rate or raise "
        "training.warmup_steps and run again (the last checkpoint is kept)"
    )


def _record(run: Run, loss: float, counted: int, batch: Batch, step: int, steps: int) -> None:
    run.ledger.add_step(counted, batch.mask_BT.numel())
    run.pending.append(loss)
    if (step + 1) % max(1, steps // CURVE_POINTS) == 0 or step + 1 == steps:
        mean = math.fsum(run.pending) / len(run.pending)
        run.curve.append({"step": step + 1, "tokens": run.ledger.tokens, "loss": mean})
        run.pending.clear()


def _save(runs: dict[str, Run], checkpoints: Checkpoints, done: int) -> None:
    tensors: dict[str, Tensor] = {}
    facts: dict[str, Any] = {"done": done, "runs": {}}
    for name, run in runs.items():
        tensors |= {f"{name}/weights/{key}": value for key, value in own_state(run.arm).items()}
        tensors |= {f"{name}/optimizer/{key}": value for key, value in run.optimizers.state().items()}
        tensors |= {f"{name}/average/{key}": value for key, value in run.average.items()}
        facts["runs"][name] = {"ledger": dataclasses.asdict(run.ledger)}
        facts["runs"][name] |= {part: getattr(run, part) for part in LISTS}
    checkpoints.save(tensors, facts)


def _resume(runs: dict[str, Run], checkpoints: Checkpoints | None) -> int:
    """Load the latest checkpoint into `runs` and return the number of finished steps."""
    found = checkpoints.load() if checkpoints is not None else None
    if found is None:
        return 0
    tensors, facts = found
    for name, run in runs.items():
        weights = _under(tensors, f"{name}/weights/")
        run.arm.load_state_dict({**run.arm.state_dict(), **weights})
        run.optimizers.load(_under(tensors, f"{name}/optimizer/"))
        run.average = _under(tensors, f"{name}/average/")
        saved = facts["runs"][name]
        run.ledger = Ledger(**saved["ledger"])
        for part in LISTS:
            setattr(run, part, saved[part])
    return int(facts["done"])


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
