"""One arm while it trains, and how all arms of a layer are saved and taken up again."""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dihal_core.bridges.arms import own_state
from dihal_core.bridges.frame import TrainedArm
from dihal_core.errors import NumericsError
from dihal_core.training.budget import Ledger
from dihal_core.training.checkpoints import Checkpoints
from dihal_core.training.microbatches import MicroBatches
from dihal_core.training.optimizers import Optimizers

log = logging.getLogger(__name__)

CURVE_POINTS = 60
"""Points of a training curve, each the mean over the steps since the last."""


@dataclasses.dataclass
class Run:
    """One arm while it trains."""

    arm: TrainedArm
    optimizers: Optimizers
    ledger: Ledger
    micro: MicroBatches
    curve: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    pending: list[float] = dataclasses.field(default_factory=list)
    """Losses since the last point of the curve."""
    observations: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """What `observe` measured on the way."""
    average: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """Exponential average of the weights by name; empty without `ema_decay`."""

    def record(self, loss: float, counted: int, positions: int, step: int, steps: int) -> None:
        """Enter one step into ledger and curve."""
        self.ledger.add_step(counted, positions)
        self.pending.append(loss)
        if (step + 1) % max(1, steps // CURVE_POINTS) == 0 or step + 1 == steps:
            mean = math.fsum(self.pending) / len(self.pending)
            self.curve.append({"step": step + 1, "tokens": self.ledger.tokens, "loss": mean})
            self.pending.clear()

    @torch.no_grad()
    def follow(self, decay: float | None, step: int) -> None:
        """Move the average towards the weights; early steps weigh more, so that the random start is forgotten."""
        if decay is not None:
            share = 1 - min(decay, (1 + step) / (10 + step))
            for name, weight in self.arm.named_parameters():
                self.average[name].lerp_(weight.detach(), share)


LISTS = ("curve", "pending", "observations")


@contextlib.contextmanager
def averaged(runs: Mapping[str, Run]) -> Iterator[None]:
    """Let every arm hold its averaged weights, if there are any; afterwards it holds its own again, to the bit."""
    _exchange(runs)
    try:
        yield
    finally:
        _exchange(runs)


def _exchange(runs: Mapping[str, Run]) -> None:
    for run in runs.values():
        for name, weight in run.arm.named_parameters():
            if name in run.average:
                weight.data, run.average[name] = run.average[name], weight.data


def require_finite(run: Run, where: str, kept: str) -> None:
    """Raise `NumericsError` for the first weight (or averaged weight) that is not finite."""
    for key, value in [*own_state(run.arm).items(), *run.average.items()]:
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise NumericsError(
                f"{where}: weight {key} is not finite; lower training.learning_rate or raise training.warmup_steps and "
                f"run again ({kept})"
            )


def save(runs: dict[str, Run], checkpoints: Checkpoints, done: int, what: str) -> None:
    """Replace the checkpoint by the state after `done` steps.

    Raises
    ------
    NumericsError
        If a weight is not finite: the checkpoint before it is kept.
    """
    tensors: dict[str, Tensor] = {}
    facts: dict[str, Any] = {"done": done, "runs": {}}
    for name, run in runs.items():
        require_finite(run, f"{what}, {name}: after step {done}", checkpoints.kept())
        tensors |= {f"{name}/weights/{key}": value for key, value in own_state(run.arm).items()}
        tensors |= {f"{name}/optimizer/{key}": value for key, value in run.optimizers.state().items()}
        tensors |= {f"{name}/average/{key}": value for key, value in run.average.items()}
        facts["runs"][name] = {"ledger": dataclasses.asdict(run.ledger)}
        facts["runs"][name] |= {part: getattr(run, part) for part in LISTS}
    checkpoints.save(tensors, facts)


def resume(runs: dict[str, Run], checkpoints: Checkpoints | None) -> int:
    """Load the latest checkpoint into `runs` and return the number of finished steps.

    One that holds other arms or sizes is set aside like an unreadable one: training starts anew.
    """
    found = checkpoints.load() if checkpoints is not None else None
    if checkpoints is None or found is None:
        return 0
    tensors, facts = found
    misfit = _misfit(runs, tensors, facts)
    if misfit:
        log.warning("checkpoint %s does not fit (%s); training starts at step 0", checkpoints.path, misfit)
        checkpoints.remove()
        return 0
    for name, run in runs.items():
        run.arm.load_state_dict({**run.arm.state_dict(), **_under(tensors, f"{name}/weights/")})
        run.optimizers.load(_under(tensors, f"{name}/optimizer/"))
        device = run.arm.frame.sink_D.device
        run.average = {key: value.to(device) for key, value in _under(tensors, f"{name}/average/").items()}
        saved = facts["runs"][name]
        run.ledger = Ledger(**saved["ledger"])
        if run.ledger.halvings:
            run.micro.size = run.ledger.halvings[-1]["to"]
        for part in LISTS:
            setattr(run, part, saved[part])
    return int(facts["done"])


def _misfit(runs: dict[str, Run], tensors: dict[str, Tensor], facts: dict[str, Any]) -> str:
    """Return what keeps a checkpoint from being taken up, or an empty string. Changes nothing."""
    saved = facts.get("runs")
    if not isinstance(saved, dict) or saved.keys() != runs.keys() or not isinstance(facts.get("done"), int):
        return f"it holds {sorted(saved) if isinstance(saved, dict) else saved!r}, not {sorted(runs)}"
    ledger = {field.name for field in dataclasses.fields(Ledger)}
    for name, run in runs.items():
        if set(saved[name]) != {"ledger", *LISTS} or set(saved[name]["ledger"]) != ledger:
            return f"the record of {name} has other fields"
        for part, wanted in (("weights", own_state(run.arm)), ("average", run.average)):
            held = _under(tensors, f"{name}/{part}/")
            if {key: value.shape for key, value in held.items()} != {k: value.shape for k, value in wanted.items()}:
                return f"the {part} of {name} have other names or shapes"
        shapes = {key: parameter.shape for key, parameter in run.arm.named_parameters()}
        for key, value in _under(tensors, f"{name}/optimizer/").items():
            if value.ndim and shapes.get(key.partition("|")[0]) != value.shape:
                return f"the optimiser state {key} of {name} has another shape"
    return ""


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
