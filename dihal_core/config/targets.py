# pyright: reportCallIssue=false
# Defaults are given to Field by position, which pyright does not count as defaults.
"""Where the sweep's targets come from: settings, and the arithmetic behind `auto`.

Reading a state costs its bytes, recomputing it the blocks below it, so reading wins above some layer: with the writing
left out, above (2 d / read rate) / (FLOPs of a block / FLOP rate). One choice holds for all layers of a study. Stored
states were made in the dump's batch shape and with its threads, on which bfloat16 results depend (a state moves by
about 1 %), so the bits of both ways differ: layers of mixed origin would be compared on targets of mixed rounding. What
a mixture could save is the layers below the break-even, two of 31 for an 8B model read at 3 GB/s.

From settings alone, never from a measured rate: the choice decides what is stored, so the same settings must give it
on every machine. Ours: the paper stores the states of every layer.
"""

import dataclasses
import math
from typing import Any, Literal

from pydantic import Field

from dihal_core.config.base import Settings

GIGA, TERA = 10**9, 10**12
BYTES_PER_VALUE = 2
LARGE_BACKBONE = 2e9
"""Parameters from which a backbone is assumed to run on a GPU, as everywhere in the plan."""
GPU_TERAFLOPS, CPU_TERAFLOPS = 395.0, 0.55
"""bf16 rate of one H200-class GPU at 50 % utilisation; of two cores with bf16 vector instructions."""


class TargetSettings(Settings):
    """Hidden states the sweep's bridges are trained towards: read from the dump, or recomputed in the loop."""

    source: Literal["auto", "stored", "recomputed"] = Field(
        "auto",
        description="stored: the dump keeps the sweep's windows whole; recomputed: the frozen blocks run in the loop and "
        "nothing is stored; auto: whichever these rates make cheaper over all passes (ours).",
    )
    read_gigabytes_per_second: float = Field(3.0, gt=0, description="Assumed rate of reading states (ours).")
    write_gigabytes_per_second: float = Field(1.0, gt=0, description="Assumed rate of writing them once (ours).")
    teraflops: float | None = Field(
        None,
        gt=0,
        description="Assumed rate of recomputing; null: 395 (one large GPU at half its peak) from 2 billion parameters on, "
        "else 0.55 (two CPU cores). Never measured, so the choice is the same on every machine (ours).",
    )
    disk_gigabytes: float = Field(
        50.0, ge=0, description="auto stores no more than this for the sweep's targets (ours)."
    )


@dataclasses.dataclass(frozen=True)
class TargetChoice:
    """What is stored for the sweep and why."""

    windows: int
    """Windows stored whole at every candidate layer; 0: targets are recomputed."""
    why: str
    """One sentence with the figures."""


@dataclasses.dataclass(frozen=True)
class TargetCosts:
    """Seconds and bytes of both ways, for all layers that train a bridge together."""

    stored_seconds: float
    recomputed_seconds: float
    stored_bytes: float
    break_even: float
    """Layer at which one pass costs the same either way; reading wins above it."""
    passes: float


def block_flops(backbone: Any) -> float:
    """Return forward FLOPs per token of one block: twice its parameters, from those of the whole model.

    Embedding and head are taken off; they are one matrix below `LARGE_BACKBONE` parameters (small models tie them), two
    from there on.
    """
    matrices = 2 if backbone.num_parameters >= LARGE_BACKBONE else 1
    embedding = matrices * backbone.vocab_size * backbone.hidden_size
    inside = backbone.num_parameters - embedding
    return 2.0 * max(inside, backbone.num_parameters / 4) / backbone.num_layers


def break_even_layer(hidden_size: int, flops_per_block: float, gigabytes_per_second: float, teraflops: float) -> float:
    """Return the depth at which running the blocks costs what reading a bfloat16 state of `hidden_size` costs."""
    read = hidden_size * BYTES_PER_VALUE / (gigabytes_per_second * GIGA)
    return read / (flops_per_block / (teraflops * TERA))


def passes_of(sweep: Any) -> float:
    """Return how often training reads a window: epochs (or what the cap on steps leaves of them) x seeds.

    Fitting, validation and the per-token table read them once or twice more; that favours reading and is left out.
    """
    training = sweep.training
    windows = sweep.num_sequences * (1 - sweep.validation_fraction)
    capped = (training.max_steps or math.inf) * training.batch_sequences / windows
    return min(training.epochs, capped) * sweep.seeds


def target_costs(settings: Any) -> TargetCosts:
    """Return what both ways cost for the study `settings` (StudySettings)."""
    backbone, sweep, chosen = settings.backbone, settings.sweep, settings.targets
    candidates = settings.candidate_layers
    trained, mean_layer = _trained(settings.sweep_layers, len(candidates)), sum(candidates) / len(candidates)
    teraflops = chosen.teraflops or (GPU_TERAFLOPS if backbone.num_parameters >= LARGE_BACKBONE else CPU_TERAFLOPS)
    tokens, flops = sweep.num_sequences * settings.corpus.window_tokens, block_flops(backbone)
    state, passes = backbone.hidden_size * BYTES_PER_VALUE, passes_of(sweep)
    everything = settings.activations.store_everything
    written = 0 if everything else len(candidates) * tokens * state  # which layers will be trained is not known yet
    return TargetCosts(
        stored_seconds=written / (chosen.write_gigabytes_per_second * GIGA)
        + trained * passes * tokens * state / (chosen.read_gigabytes_per_second * GIGA),
        recomputed_seconds=trained * passes * tokens * mean_layer * flops / (teraflops * TERA),
        stored_bytes=written,
        break_even=break_even_layer(backbone.hidden_size, flops, chosen.read_gigabytes_per_second, teraflops),
        passes=passes,
    )


def _trained(sweep_layers: str, candidates: int) -> int:
    if sweep_layers in ("all", "none"):
        return candidates if sweep_layers == "all" else 0
    return min(candidates, int(sweep_layers.removeprefix("top:")))


def choose_targets(settings: Any) -> TargetChoice:
    """Return what `targets.source` comes to for the study `settings` (StudySettings), were no number given by hand."""
    source, windows = settings.targets.source, settings.sweep.num_sequences
    if source != "auto":
        return TargetChoice(windows if source == "stored" else 0, f"{source}, as targets.source says")
    if settings.sweep_layers == "none":
        return TargetChoice(0, "recomputed: no layer is swept, so nothing is stored for it")
    costs, dumped = target_costs(settings), settings.activations.num_sequences
    if windows > dumped:
        return TargetChoice(
            0,
            f"recomputed: the sweep's {windows:,} windows are more than the {dumped:,} that are dumped "
            "(activations.num_sequences)",
        )
    figures = (
        f"over {_number(costs.passes)} pass{'' if costs.passes == 1 else 'es'} of {windows:,} windows writing and reading take "
        f"{_time(costs.stored_seconds)} and {_number(costs.stored_bytes / GIGA)} GB, recomputing "
        f"{_time(costs.recomputed_seconds)} at the assumed rates (one pass breaks even at layer {_number(costs.break_even)})"
    )
    if costs.stored_seconds >= costs.recomputed_seconds:
        return TargetChoice(0, f"recomputed: {figures}")
    if costs.stored_bytes > settings.targets.disk_gigabytes * GIGA:
        return TargetChoice(
            0, f"recomputed: {figures}, but targets.disk_gigabytes allows {_number(settings.targets.disk_gigabytes)} GB"
        )
    return TargetChoice(windows, f"stored: {figures}")


def explain_targets(settings: Any) -> str:
    """Return one sentence: where the targets come from and why, also where activations.whole_sequences was set by hand."""
    wanted, chosen = settings.activations.whole_sequences, choose_targets(settings)
    if wanted == chosen.windows:
        return f"Sweep targets are {chosen.why}."
    said = "stored" if wanted else "recomputed"
    return (
        f"Sweep targets are {said}, because activations.whole_sequences={wanted} was set by hand; left out, they would be "
        f"{chosen.why}."
    )


def _time(seconds: float) -> str:
    return f"{_number(seconds)} s" if seconds < 600 else f"{_number(seconds / 3600)} h"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
