"""Stage `replace`: the full training at the chosen layer, on more windows, with recomputed targets.

Paper section 4: best-scoring layer, full corpus. Bridge and regressor train on identical batches; ridge
and skip stand beside them. Statistics and ridge are fitted on training windows only; a few windows,
split off by document, show the course of training. The evaluation sets are never touched.
"""

import time
from typing import Any

import numpy as np
import torch

from dihal_core.backbones.loading import load_backbone
from dihal_core.backbones.threads import resolve_device, use_threads
from dihal_core.bridges.fitting import LayerFacts, fit_condition, fit_frame
from dihal_core.bridges.frame import Arm, Frame
from dihal_core.bridges.linear import RidgeFactor
from dihal_core.bridges.splits import split_by_document
from dihal_core.bridges.wide_ridge import narrow_ridge
from dihal_core.contract import StageContext
from dihal_core.corpus.windows import load_windows
from dihal_core.progress import Progress, silent
from dihal_core.training.batches import BatchSource
from dihal_core.training.checkpoints import Checkpoints
from dihal_core.training.closed_form import seen_windows, table_arm, wide_ridge_arm
from dihal_core.training.distortion import measured_distortion
from dihal_core.training.loop import train
from dihal_core.training.losses import validation_errors
from dihal_core.training.phases import Phases
from dihal_core.training.processes import train_together
from dihal_core.training.results import (
    Trained,
    find_trained,
    fresh_arms,
    keep_trained,
    require_layer,
    trained_arms,
)
from dihal_core.training.suffix import SuffixObjective
from dihal_core.training.targets import RecomputeTargets
from dihal_core.training.world import ALONE, World

RESULT = "replace.json"
SHARES = {"condition": 6.0, "layer": 4.0, "train": 88.0, "validate": 2.0}
"""Rough shares of the time, for the progress display only."""


def build_replace(context: StageContext) -> dict[str, Any]:
    """Train the arms of the chosen layer; resumes from its checkpoint."""
    settings = context.settings
    use_threads(settings.replace.threads)
    clock = [time.monotonic()]
    phases = Phases(context.progress, SHARES)
    layer = require_layer(context.values["layer"], settings.backbone.num_layers, settings.backbone.name)
    source, facts, train_windows, validation, factor = _prepare(context, layer, phases)
    clock.append(time.monotonic())
    arms, trained = _arms(context, layer, source, facts, train_windows, validation, factor, phases.of("train"))
    clock.append(time.monotonic())
    errors = validation_errors(arms, source, validation, facts, settings.replace.outlier_ratio, phases.of("validate"))
    looked = looked_at(validation, settings.replace.look_windows)
    nothing = {"parameters": 0, "steps": 0, "tokens": 0, "flops": 0}
    result = {
        "layer": layer,
        "arms": {name: {**trained.ledgers.get(name, nothing), **errors.summary(name)} for name in arms},
        "objective": {name: arm.objective() for name, arm in trained_arms(arms).items()},
        "curve": trained.curves,
        "validation_curve": trained.observations,
        "validation": {
            "documents": len(np.unique(errors.document_N)),
            "windows": len(validation),
            "states": len(errors.document_N),
            "outlier_share": float(errors.outlier_N.mean()),
            **({} if len(looked) == len(validation) else {"curve_windows": len(looked)}),
        },
        "train": {"windows": len(train_windows), "fitted_states": facts.rows},
        **measured_distortion(arms["bridge"], source, validation),
    }
    context.store.write_json(RESULT, result)
    Checkpoints(context.store.path).remove()
    clock.append(time.monotonic())
    seconds = dict(zip(("fit", "train", "measure"), np.diff(clock).round(3).tolist(), strict=True))
    bridge = result["arms"]["bridge"]
    return {"layer": layer, "fvu": bridge["fvu"], "steps": bridge["steps"], "parts": seconds}


def looked_at(validation: np.ndarray, count: int | None) -> np.ndarray:
    """Return the windows that each point of the validation curve is measured on: all, or `count` evenly spread ones."""
    if count is None or count >= len(validation):
        return validation
    return validation[np.linspace(0, len(validation) - 1, count).round().astype(int)]


def _prepare(
    context: StageContext, layer: int, phases: Phases
) -> tuple[BatchSource, LayerFacts, np.ndarray, np.ndarray, RidgeFactor]:
    """Return the batch source with its fitted frame, the layer's facts, training and validation windows, the factor."""
    settings = context.settings
    windows = load_windows(context.inputs["corpus"], "train")
    backbone = load_backbone(
        settings.backbone, context.inputs["assets"], resolve_device(settings.compute.device), settings.seed
    )
    documents_N = windows.document_N[: settings.replace.num_sequences]
    train_windows, validation = split_by_document(documents_N, settings.replace.validation_fraction, settings.seed)
    fitted = train_windows[: settings.bridge.ridge_windows]
    lengths_N = torch.from_numpy(windows.lengths_N).long()
    source = BatchSource(
        backbone,
        windows,
        RecomputeTargets(backbone, windows, layer),
        Frame(backbone.hidden_size, settings.bridge.ridge_tokens),
        settings.bridge.clip_sd,
    )
    condition, factor = fit_condition(
        source.embed, lengths_N, fitted, settings.bridge, "embedding output", phases.of("condition")
    )
    frame, facts = fit_frame(
        condition,
        factor,
        source.embed,
        source.targets.states,
        lengths_N,
        fitted,
        settings.bridge,
        f"layer {layer}",
        phases.of("layer"),
    )
    return source.with_frame(frame), facts, train_windows, validation, factor


def _arms(
    context: StageContext,
    layer: int,
    source: BatchSource,
    facts: LayerFacts,
    train_windows: np.ndarray,
    validation: np.ndarray,
    factor: RidgeFactor,
    progress: Progress,
) -> tuple[dict[str, Arm], Trained]:
    device = source.frame.sink_D.device
    count = context.settings.replace.training.processes
    if count > 1 and find_trained(context.store, device) is None:
        train_together(train_share, context, 0, count, device.type, progress)
    found = find_trained(context.store, device)
    return found or _train(context, layer, source, facts, train_windows, validation, factor, progress)


def train_share(context: StageContext, index: int, world: World) -> None:
    """Train the arms as one of several processes; the main one commits. `index` is 0, there is one training."""
    use_threads(context.settings.replace.threads)
    layer = int(context.values["layer"])
    source, facts, train_windows, validation, factor = _prepare(context, layer, Phases(silent, SHARES))
    _train(context, layer, source, facts, train_windows, validation, factor, context.progress, world)


def _train(
    context: StageContext,
    layer: int,
    source: BatchSource,
    facts: LayerFacts,
    train_windows: np.ndarray,
    validation: np.ndarray,
    factor: RidgeFactor,
    progress: Progress,
    world: World = ALONE,
) -> tuple[dict[str, Arm], Trained]:
    settings = context.settings
    names = ("bridge", "regressor", "ridge", "skip") if settings.replace.regressor else ("bridge", "ridge", "skip")
    arms = fresh_arms(names, settings.bridge, source.frame, settings.seed)
    learning = trained_arms(arms)

    looked = looked_at(validation, settings.replace.look_windows)

    def observe() -> dict[str, dict[str, float]]:
        errors = validation_errors(learning, source, looked, facts, settings.replace.outlier_ratio)
        return {name: {"fvu": errors.summary(name)["fvu"]} for name in learning}

    if settings.replace.table and world.main:
        table = table_arm(source, layer, train_windows)
        arms |= {} if table is None else {"table": table}
    if settings.replace.ridge_1 and settings.bridge.ridge_tokens > 1 and world.main:
        arms["ridge-1"] = narrow_ridge(source.frame, factor)
    runs = train(
        learning,
        source,
        train_windows,
        settings.replace.training,
        settings.seed,
        f"layer {layer}",
        Checkpoints(context.store.path),
        progress,
        observe,
        SuffixObjective.of(source, layer, settings.bridge),
        world,
    )
    if (
        settings.replace.ridge_all and world.main
    ):  # last: nothing waits for it, and a resumed training does not repeat it
        bridge = settings.bridge
        seen = seen_windows(settings.replace.training, train_windows, bridge.ridge_windows, settings.seed)
        arms["ridge-all"], _ = wide_ridge_arm(source, layer, seen, bridge.ridge_penalty, progress)
    return arms, keep_trained(context.store, arms, runs, settings.bridge, layer, write=world.main)
