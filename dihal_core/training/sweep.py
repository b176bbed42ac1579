"""Stage `sweep`: one bridge per candidate layer under one protocol, and its losses on validation.

Paper section 4: for each candidate layer one bridge, one epoch, 9:1 split, validation bridge loss. Every
layer sees the same windows in the same order for the same steps from the same initial weights and noise;
only the targets differ. The sweep evaluates the score and never tunes it.
"""

import time
from typing import Any

import numpy as np
import torch

from dihal_core.backbones.loading import load_backbone
from dihal_core.backbones.threads import resolve_device, use_threads
from dihal_core.bridges.fitting import LayerFacts, fit_frame
from dihal_core.bridges.frame import Arm, Frame
from dihal_core.bridges.ridge import SharedRidge, load_ridge
from dihal_core.corpus.windows import load_windows
from dihal_core.progress import Progress
from dihal_core.stages import StageContext
from dihal_core.training.batches import BatchSource
from dihal_core.training.checkpoints import Checkpoints
from dihal_core.training.distortion import measured_distortion
from dihal_core.training.likelihood import suffix_likelihood
from dihal_core.training.loop import autocast_dtype, train
from dihal_core.training.losses import ValidationErrors, objective_loss, validation_errors
from dihal_core.training.phases import Phases
from dihal_core.training.results import (
    Trained,
    find_trained,
    fresh_arms,
    keep_trained,
    require_layer,
    trained_arms,
)
from dihal_core.training.suffix import SuffixObjective
from dihal_core.training.targets import RecomputeTargets, StoreTargets

RESULT = "sweep.json"
SHARES = {"fit": 8.0, "train": 55.0, "validate": 10.0, "likelihood": 27.0}
"""Rough shares of a layer's time, for the progress display only."""


def control_layers(first: int, last: int, count: int) -> tuple[int, ...]:
    """Return up to `count` layers evenly spread over first..last, both ends included."""
    return tuple(sorted({int(layer) for layer in np.linspace(first, last, min(count, last - first + 1)).round()}))


def build_sweep(context: StageContext) -> dict[str, Any]:
    """Fit the frame of one layer, train its arms, measure them; resumes from its checkpoint."""
    settings = context.settings
    use_threads(settings.sweep.threads)
    clock = [time.monotonic()]
    phases = Phases(context.progress, SHARES)
    layer = require_layer(context.unit, settings.backbone.num_layers, settings.backbone.name)
    device = resolve_device(settings.compute.device)
    shared = load_ridge(context.inputs["ridge"], device)
    source, facts = _source(context, layer, shared, device, phases.of("fit"))
    clock.append(time.monotonic())
    arms, trained = _arms(context, layer, source, shared, phases.of("train"))
    clock.append(time.monotonic())
    result = _measure(context, layer, source, facts, shared, arms, trained, phases)
    clock.append(time.monotonic())
    context.store.write_json(RESULT, result)
    Checkpoints(context.store.path).remove()
    seconds = dict(zip(("fit", "train", "measure"), np.diff(clock).round(3).tolist(), strict=True))
    bridge = result["arms"]["bridge"]
    return {"fvu": bridge["fvu"], "kl": bridge["kl"], "steps": bridge["steps"], "parts": seconds}


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
    context: StageContext, layer: int, source: BatchSource, shared: SharedRidge, progress: Progress
) -> tuple[dict[str, Arm], Trained]:
    settings = context.settings
    found = find_trained(context.store, source.frame.sink_D.device)
    if found is not None:
        return found
    arms = fresh_arms(_names(settings, layer), settings.bridge, source.frame, settings.seed)
    runs = train(
        trained_arms(arms),
        source,
        shared.train,
        settings.sweep.training,
        settings.seed,
        f"layer {layer}",
        Checkpoints(context.store.path),
        progress,
        suffix=SuffixObjective.of(source, layer, settings.bridge),
    )
    return arms, keep_trained(context.store, arms, runs, settings.bridge, layer)


def _names(settings: Any, layer: int) -> tuple[str, ...]:
    last = settings.score.last_layer or settings.backbone.num_layers - 1
    controls = control_layers(settings.score.first_layer, last, settings.sweep.regressor_layers)
    return ("bridge", "regressor", "ridge", "skip") if layer in controls else ("bridge", "ridge", "skip")


def _measure(
    context: StageContext,
    layer: int,
    source: BatchSource,
    facts: LayerFacts,
    shared: SharedRidge,
    arms: dict[str, Arm],
    trained: Trained,
    phases: Phases,
) -> dict[str, Any]:
    settings = context.settings
    errors = validation_errors(
        arms, source, shared.validation, facts, settings.sweep.outlier_ratio, phases.of("validate")
    )
    scored_arms = arms if "regressor" in arms else {name: arms[name] for name in ("bridge", "ridge")}
    likelihood, teacher_nll, tokens = suffix_likelihood(
        scored_arms,
        source,
        layer,
        shared.validation[: settings.sweep.likelihood_sequences],
        context.inputs["corpus"].digest,
        phases.of("likelihood"),
    )
    rows: dict[str, dict[str, Any]] = {}
    for name in arms:
        nothing = {"parameters": 0, "steps": 0, "tokens": 0, "flops": 0}
        losses: dict[str, Any] = {"kl": None, "nll": None, **errors.summary(name), **likelihood.get(name, {})}
        rows[name] = {**losses, "paper_bridge_loss": None, **trained.ledgers.get(name, nothing)}
    for name, arm in trained_arms(arms).items():
        rows[name]["paper_bridge_loss"] = objective_loss(
            arm,
            source,
            shared.validation,
            settings.seed,
            autocast_dtype(settings.sweep.training),
            SuffixObjective.of(source, layer, settings.bridge),
        )
    return {
        "layer": layer,
        "arms": rows,
        "objective": {name: arm.objective() for name, arm in trained_arms(arms).items()},
        "teacher": {"nll": teacher_nll},
        "curve": trained.curves["bridge"],
        "validation": {
            "documents": len(np.unique(errors.document_N)),
            "windows": len(shared.validation),
            "states": len(errors.document_N),
            "scored_tokens": tokens,
            "outlier_share": float(errors.outlier_N.mean()),
        },
        "per_document": {name: errors.per_document(name) for name in arms},
        "flags": _flags(rows, errors, layer),
        **measured_distortion(arms["bridge"], source, shared.validation),
    }


def _flags(rows: dict[str, dict[str, Any]], errors: ValidationErrors, layer: int) -> list[str]:
    flags = []
    bridge, ridge = rows["bridge"], rows["ridge"]
    if bridge["fvu"] >= ridge["fvu"]:
        flags.append(
            f"layer {layer}: the trained bridge (FVU {bridge['fvu']:.4f}) does not improve on the ridge it starts "
            f"from ({ridge['fvu']:.4f}); its rank is the ridge's"
        )
    if bridge["kl"] is not None and bridge["kl"] >= ridge["kl"]:
        flags.append(
            f"layer {layer}: KL of the bridge ({bridge['kl']:.4f}) is not below the ridge's ({ridge['kl']:.4f})"
        )
    share = float(errors.outlier_N.mean())
    if share > 0.01:
        flags.append(f"layer {layer}: {share:.1%} of validation states are outlier tokens")
    return flags
