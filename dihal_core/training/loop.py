"""The training loop: several arms side by side on identical batches.

Letters: B windows of a batch, T positions.

Same seed and threads, same bits: batch, times and noise of a step depend on (seed, step) alone, not on
the layer, on other arms, or on where an interrupted run was resumed.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from dihal_core.bridges.frame import Batch, TrainedArm
from dihal_core.config import TrainingSettings
from dihal_core.errors import NumericsError, ResourceError
from dihal_core.memory import first_line, is_out_of_memory
from dihal_core.progress import Progress, StopRequested, silent
from dihal_core.training.batches import BatchSource, batch_windows, noise_generator, total_steps
from dihal_core.training.budget import Ledger
from dihal_core.training.checkpoints import Checkpoints, kept_by
from dihal_core.training.microbatches import RELIEF, MicroBatches, StepLoss
from dihal_core.training.optimizers import Optimizers, rate_factor
from dihal_core.training.runs import Run, averaged, require_finite, resume, save
from dihal_core.training.suffix import SuffixObjective
from dihal_core.training.world import ALONE, World

Observe = Callable[[], dict[str, dict[str, float]]]


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
    world: World = ALONE,
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
        Measures the arms every `checkpoint_steps` steps and at the end: `{arm: {quantity: value}}`. With `ema_decay` the
        arms hold the averaged weights meanwhile, those that are kept at the end.
    suffix : SuffixObjective, optional
        Next-token and distillation losses, added to every arm's own.
    world : World
        Processes that share every batch; only the main one saves and observes.

    Raises
    ------
    NumericsError
        If a loss, gradient or weight is not finite, naming layer, arm and step; the last good checkpoint is kept.
    ResourceError
        If memory runs out where no smaller micro-batch helps.
    StopRequested
        If `progress` asks to stop; the finished steps are saved first.
    """
    steps = total_steps(settings, len(windows))
    iterations = settings.muon_iterations if settings.optimizer == "muon" else 0
    positions = source.windows.tokens_NT.shape[1]
    runs = {
        name: Run(
            arm.requires_grad_(True),
            Optimizers(arm, settings),
            Ledger.of(arm, positions, iterations),
            MicroBatches(settings.micro_batch_sequences),
        )
        for name, arm in arms.items()
    }
    world.agree(arms)
    if settings.ema_decay is not None:
        for run in runs.values():
            run.average = {name: weight.detach().clone() for name, weight in run.arm.named_parameters()}
    first = resume(runs, checkpoints)
    share = world.share(settings.batch_sequences)

    def order() -> Iterator[np.ndarray]:
        return (batch_windows(windows, settings.batch_sequences, step, seed) for step in range(first, steps))

    with source.targets.reading_ahead(indices[share] for indices in order()):
        for step, indices in enumerate(order(), start=first):
            _report(progress, step, steps, runs, checkpoints if world.main and step > first else None, what)
            at = _Step(source, indices, share, settings, step, steps, seed, what, checkpoints, world)
            batch = at.load()
            for name, run in runs.items():
                loss, counted = at.take(run, name, batch, suffix)
                run.record(loss, counted, len(indices) * positions, step, steps)
                run.follow(settings.ema_decay, step)
            due = (step + 1) % settings.checkpoint_steps == 0
            if observe is not None and world.main and (due or step + 1 == steps):
                with averaged(runs):
                    found = observe()
                for name, measured in found.items():
                    runs[name].observations.append({"step": step + 1, **measured})
            if checkpoints is not None and world.main and due and step + 1 < steps:
                save(runs, checkpoints, step + 1, what)
    for name, arm in arms.items():
        require_finite(runs[name], f"{what}, {name}: after step {steps}", kept_by(checkpoints))
        arm.requires_grad_(False)
        for key, weight in arm.named_parameters():
            weight.copy_(runs[name].average.get(key, weight))
    return runs


def _report(
    progress: Progress, done: int, steps: int, runs: dict[str, Run], checkpoints: Checkpoints | None, what: str
) -> None:
    try:
        progress(done, steps, "steps")
    except StopRequested:
        if checkpoints is not None:
            save(runs, checkpoints, done, what)
        raise


def autocast_dtype(settings: TrainingSettings) -> torch.dtype | None:
    """Return the dtype of mixed precision, or None for full float32."""
    return torch.bfloat16 if settings.autocast == "bfloat16" else None


@dataclasses.dataclass(frozen=True)
class _Step:
    """One optimiser step of all arms on one batch."""

    source: BatchSource
    indices: np.ndarray
    share: slice
    """Windows of the batch that this process takes."""
    settings: TrainingSettings
    step: int
    steps: int
    seed: int
    what: str
    checkpoints: Checkpoints | None
    world: World

    @property
    def where(self) -> str:
        return f"at step {self.step + 1} of {self.steps}"

    def load(self) -> Batch:
        try:
            return self.source.load(self.indices[self.share], autocast_dtype(self.settings))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ResourceError(
                f"{self.what}: out of memory {self.where} while a batch of {len(self.indices)} windows was made "
                f"({first_line(error)}); lower training.batch_sequences, or {RELIEF}"
            ) from error

    def take(self, run: Run, name: str, batch: Batch, suffix: SuffixObjective | None) -> tuple[float, int]:
        """Step one arm; return the loss and how many states it is the mean of."""
        mask_BT = self.source.mask(self.indices).to(batch.mask_BT.device)
        generator = noise_generator(self.seed, self.step, mask_BT.device)
        draws = run.arm.draw(mask_BT, generator)
        counted = int((mask_BT & ~draws.t_BT.isnan()).sum())
        through = None if suffix is None else suffix.draw(run.arm, mask_BT, generator)
        loss = StepLoss(
            run.arm, batch, self.indices, self.share, draws, counted,
            autocast_dtype(self.settings), suffix, through,
        )  # fmt: skip
        what = f"{self.what}, {name}"

        def check(value: float) -> None:
            if not math.isfinite(value):
                raise self._diverged("loss", value, what)

        def halved(tried: int, now: int) -> None:
            run.ledger.halvings.append({"step": self.step + 1, "from": tried, "to": now})

        # Several processes look at their common loss: one that stopped at its own share would leave the others waiting.
        alone = self.world.size == 1
        value = run.micro.backward(loss, f"{what} {self.where}", check if alone else lambda part: None, halved)
        if not alone:
            self.world.sum_gradients(run.arm)
            value = self.world.sum(value)
            check(value)
        try:
            norm = run.optimizers.step(rate_factor(self.step, self.steps, self.settings.warmup_steps))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ResourceError(
                f"{what}: out of memory {self.where} in the optimiser ({first_line(error)}); {RELIEF}"
            ) from error
        if not math.isfinite(norm):
            raise self._diverged("gradient norm", norm, what)
        if through is not None:
            run.ledger.add_pass(int((~through.t_BT.isnan()).sum()), through.t_BT.numel())
        return value, counted

    def _diverged(self, quantity: str, value: float, what: str) -> NumericsError:
        return NumericsError(
            f"{what}: {quantity} is {value} {self.where}; lower training.learning_rate or raise training.warmup_steps "
            f"and run again ({kept_by(self.checkpoints)})"
        )
