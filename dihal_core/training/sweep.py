"""Stage `sweep`: one bridge per candidate layer under one protocol, and its losses on validation.

Paper section 4: for each candidate layer one bridge, one epoch, 9:1 split, validation bridge loss. Every
layer sees the same windows in the same order for the same steps from the same initial weights and noise;
only the targets differ. The sweep evaluates the score and never tunes it.
"""

import time
from typing import Any

import numpy as np
import torch

from dihal_core.backbones.belongs import require_backbone
from dihal_core.backbones.loading import load_backbone
from dihal_core.backbones.threads import resolve_device, use_threads
from dihal_core.bridges.fitting import LayerFacts, fit_frame
from dihal_core.bridges.frame import Arm, Frame
from dihal_core.bridges.ridge import SharedRidge, load_ridge
from dihal_core.bridges.wide_ridge import narrow_ridge
from dihal_core.contract import StageContext
from dihal_core.corpus.windows import load_windows
from dihal_core.progress import Progress, silent
from dihal_core.seeding import training_seed
from dihal_core.training.batches import BatchSource
from dihal_core.training.checkpoints import Checkpoints
from dihal_core.training.closed_form import table_arm
from dihal_core.training.loop import train
from dihal_core.training.measure import Measurement, with_seeds
from dihal_core.training.phases import Phases
from dihal_core.training.processes import train_together
from dihal_core.training.results import (
    Trained,
    find_trained,
    fresh_arms,
    keep_trained,
    require_layer,
    seed_folder,
    trained_arms,
)
from dihal_core.training.suffix import SuffixObjective
from dihal_core.training.targets import RecomputeTargets, StoreTargets
from dihal_core.training.world import ALONE, World

RESULT = "sweep.json"
SHARES = {"fit": 8.0, "train": 55.0, "validate": 10.0, "likelihood": 27.0}
"""Rough shares of a layer's time, for the progress display only."""
LEARNED = ("bridge", "regressor")
NO_TABLE = (
    "layer {layer}: no per-token table, because this backbone's embedding output also holds the position and so names no "
    "token"
)


def control_layers(first: int, last: int, count: int) -> tuple[int, ...]:
    """Return up to `count` layers evenly spread over first..last, both ends included."""
    return tuple(sorted({int(layer) for layer in np.linspace(first, last, min(count, last - first + 1)).round()}))


def build_sweep(context: StageContext) -> dict[str, Any]:
    """Fit the frame of one layer, train its arms, measure them, once per seed; resumes from its checkpoint."""
    settings = context.settings
    use_threads(settings.sweep.threads)
    clock = [time.monotonic()]
    phases = Phases(context.progress, SHARES)
    layer = require_layer(context.unit, settings.backbone.num_layers, settings.backbone.name)
    for name in ("activations", "ridge"):
        require_backbone(context.inputs[name].path, settings.backbone)
    device = resolve_device(settings.compute.device)
    shared = load_ridge(context.inputs["ridge"], device)
    source, facts = _source(context, layer, shared, device, phases.of("fit"))
    clock.append(time.monotonic())
    trainings = [
        _arms(context, layer, source, shared, index, _part(phases.of("train"), index, settings.sweep.seeds))
        for index in range(settings.sweep.seeds)
    ]
    clock.append(time.monotonic())
    measurement = Measurement(context, layer, source, facts, shared, phases)
    (arms, trained), *others = trainings
    table = table_arm(source, layer, shared.train)
    extra: dict[str, Arm] = {} if table is None else {"table": table}
    if settings.sweep.ridge_1 and settings.bridge.ridge_tokens > 1:
        extra["ridge-1"] = narrow_ridge(source.frame, shared.factor)
    result = measurement.first({**arms, **extra}, trained)
    if table is None:
        result["flags"].append(NO_TABLE.format(layer=layer))
    further = [
        measurement.further(more, losses, index, _part(phases.of("likelihood"), index, settings.sweep.seeds))
        for index, (more, losses) in enumerate(others, start=1)
    ]
    clock.append(time.monotonic())
    context.store.write_json(RESULT, with_seeds(result, further))
    for index in range(settings.sweep.seeds):
        Checkpoints(seed_folder(context.store, index)).remove()
    seconds = dict(zip(("fit", "train", "measure"), np.diff(clock).round(3).tolist(), strict=True))
    bridge = result["arms"]["bridge"]
    return {"fvu": bridge["fvu"], "kl": bridge["kl"], "steps": bridge["steps"], "parts": seconds}


def _part(progress: Progress, index: int, parts: int) -> Progress:
    return lambda done, total, unit: progress(index * total + done, parts * total, unit)


def _source(
    context: StageContext, layer: int, shared: SharedRidge, device: str, progress: Progress
) -> tuple[BatchSource, LayerFacts]:
    settings = context.settings
    windows = load_windows(context.inputs["corpus"], "train")
    backbone = load_backbone(settings.backbone, context.inputs["assets"], device, settings.seed)
    if settings.activations.whole_sequences:
        needed = settings.sweep.num_sequences
        targets = StoreTargets(context.inputs["activations"], layer, needed, device)
    else:
        targets = RecomputeTargets(backbone, windows, layer)
    source = BatchSource(
        backbone, windows, targets, Frame(backbone.hidden_size, settings.bridge.ridge_tokens), settings.bridge.clip_sd
    )
    lengths_N = torch.from_numpy(windows.lengths_N).long()
    frame, facts = fit_frame(
        shared.condition,
        shared.factor,
        source.embed,
        targets.states,
        lengths_N,
        shared.fitted,
        settings.bridge,
        f"layer {layer}",
        progress,
    )
    return source.with_frame(frame), facts


def _arms(
    context: StageContext, layer: int, source: BatchSource, shared: SharedRidge, index: int, progress: Progress
) -> tuple[dict[str, Arm], Trained]:
    """Return the arms trained under seed number `index`; those of the first have the controls beside them."""
    device = source.frame.sink_D.device
    count = context.settings.sweep.training.processes
    if count > 1 and find_trained(context.store, device, index) is None:
        train_together(train_share, context, index, count, device.type, progress)
    found = find_trained(context.store, device, index)
    return found or _train(context, layer, source, shared, index, progress)


def train_share(context: StageContext, index: int, world: World) -> None:
    """Train the arms of seed number `index` as one of several processes; the main one commits."""
    settings = context.settings
    use_threads(settings.sweep.threads)
    device = resolve_device(settings.compute.device)
    layer = require_layer(context.unit, settings.backbone.num_layers, settings.backbone.name)
    shared = load_ridge(context.inputs["ridge"], device)
    source, _ = _source(context, layer, shared, device, silent)
    _train(context, layer, source, shared, index, context.progress, world)


def _train(
    context: StageContext,
    layer: int,
    source: BatchSource,
    shared: SharedRidge,
    index: int,
    progress: Progress,
    world: World = ALONE,
) -> tuple[dict[str, Arm], Trained]:
    settings = context.settings
    names = _names(settings, layer)
    seed = training_seed(settings.seed, index)
    chosen = names if index == 0 else tuple(name for name in names if name in LEARNED)
    arms = fresh_arms(chosen, settings.bridge, source.frame, seed)
    runs = train(
        trained_arms(arms),
        source,
        shared.train,
        settings.sweep.training,
        seed,
        f"layer {layer}" if index == 0 else f"layer {layer}, seed {index}",
        Checkpoints(seed_folder(context.store, index)),
        progress,
        suffix=SuffixObjective.of(source, layer, settings.bridge),
        world=world,
    )
    return arms, keep_trained(context.store, arms, runs, settings.bridge, layer, index, world.main)


def _names(settings: Any, layer: int) -> tuple[str, ...]:
    last = settings.score.last_layer or settings.backbone.num_layers - 1
    controls = control_layers(settings.score.first_layer, last, settings.sweep.regressor_layers)
    return ("bridge", "regressor", "ridge", "skip") if layer in controls else ("bridge", "ridge", "skip")
