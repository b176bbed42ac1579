"""Stage `ablate`: one arm of the comparison of bridge architectures, trained with one seed and evaluated.

Paper appendix D.1 compares bridge architectures at small scale. Every arm sees the same windows, batches, times
and steps at one layer; a seed changes initial weights, order and noise. The validation windows are split off by
document with the study's own seed, so they are the same for all arms and seeds. Resumes from its checkpoint
and, after the training, from its last scored batch.

Letters: B windows, T positions, D hidden size.
"""

import dataclasses
import weakref
from typing import Any, cast

import numpy as np
import torch

from dihal_core.backbones.backbone import Backbone
from dihal_core.backbones.loading import load_backbone
from dihal_core.backbones.threads import resolve_device, use_threads
from dihal_core.bridges.ablation_arms import ABLATION_ARMS, parse_unit, row_name
from dihal_core.bridges.fitting import LayerFacts, fit_condition, fit_frame
from dihal_core.bridges.frame import Arm, Frame, TrainedArm
from dihal_core.bridges.splits import split_by_document
from dihal_core.config import BridgeBase
from dihal_core.contract import StageContext
from dihal_core.corpus.windows import Windows, load_windows
from dihal_core.errors import ConfigError
from dihal_core.evaluation.evaluate import (
    PROBED_WINDOWS,
    committed_sums,
    conventions,
    evaluate_batches,
    padded_batch,
)
from dihal_core.evaluation.flops import counted_flops
from dihal_core.evaluation.summary import summarise
from dihal_core.hybrid.leaks import require_no_leak
from dihal_core.hybrid.model import Hybrid
from dihal_core.progress import Progress
from dihal_core.seeding import training_seed
from dihal_core.training.ablation_fit import CLOCK, fitted_parameters, obtain_arm
from dihal_core.training.batches import BatchSource
from dihal_core.training.checkpoints import Checkpoints
from dihal_core.training.losses import validation_errors
from dihal_core.training.phases import Phases
from dihal_core.training.results import require_layer
from dihal_core.training.targets import RecomputeTargets

RESULT = "ablate.json"
OUTLIER_RATIO = 4.0
"""As in sweep and replace by default; FVU without outliers is not part of the comparison."""
SHARES = {"condition": 5.0, "layer": 3.0, "train": 70.0, "validate": 2.0, "evaluate": 20.0}
"""Rough shares of the time, for the progress display only."""


@dataclasses.dataclass
class _Kept:
    """A fitted frame: the arms of one process share it, nothing in it is trained."""

    backbone: weakref.ref[Backbone]
    wanted: tuple[Any, ...]
    frame: Frame
    facts: LayerFacts


_frames: list[_Kept] = []


def build_ablate(context: StageContext) -> dict[str, Any]:
    """Train the arm of the unit with its seed, measure it, write `ablate.json`.

    Raises
    ------
    ConfigError
        For a unit, layer or evaluation set that does not exist.
    GateError
        If the trained arm leaks: checked before any likelihood is computed.
    NumericsError
        If training diverges or a prediction is not finite.
    """
    settings, inputs = context.settings, cast(Any, context.inputs)
    chosen = settings.ablation
    name, number = parse_unit(str(context.unit))
    spec, seed = ABLATION_ARMS[name], training_seed(settings.seed, number)
    bridge = spec.settings(settings.bridge, chosen)
    layer = require_layer(chosen.layer, settings.backbone.num_layers, settings.backbone.name)
    use_threads(chosen.threads)
    phases = Phases(context.progress, SHARES)
    evaluated = load_windows(inputs["corpus"], chosen.evaluation_set)
    if not len(evaluated):
        raise ConfigError(
            f"evaluation set {chosen.evaluation_set!r} holds no windows; raise corpus.num_{chosen.evaluation_set} or "
            "set ablation.evaluation_set to the other one"
        )
    device = resolve_device(settings.compute.device)
    backbone = load_backbone(settings.backbone, inputs["assets"], device, settings.seed)
    source, facts, train_windows, validation = _prepare(context, backbone, bridge, layer, phases)
    arms, trained, states = obtain_arm(context, spec, bridge, layer, seed, source, train_windows, phases.of("train"))
    errors = validation_errors(arms, source, validation, facts, OUTLIER_RATIO, phases.of("validate"))
    arm = arms[spec.arm]
    probe_BTD = backbone.embed(padded_batch(evaluated, 0, min(PROBED_WINDOWS, len(evaluated))))
    leaks = require_no_leak(arms, probe_BTD, "trained" if spec.trained else "fitted", seed)
    steps = chosen.sampling_steps if spec.diffusion else (1,)
    per_document = _evaluate(context, backbone, layer, name, arm, steps, seed, evaluated, phases.of("evaluate"))
    nothing = {"steps": 0, "tokens": 0, "flops": 0, "parameters": fitted_parameters(arm)}
    result = {
        "arm": name,
        "seed": number,
        "layer": layer,
        "bridge": bridge.model_dump(mode="json"),
        **trained.ledgers.get(spec.arm, nothing),
        **errors.summary(spec.arm),
        "forward_flops": {
            str(count): counted_flops(lambda count=count: arm.predict(probe_BTD[:1], count)) / probe_BTD.shape[1]
            for count in steps
        },
        "curve": trained.curves.get(spec.arm, []),
        "leak": leaks[spec.arm],
        "train": {"windows": len(train_windows), "fitted_states": states or facts.rows},
        "validation": {"windows": len(validation), "states": len(errors.document_N)},
        "set": chosen.evaluation_set,
        "conventions": conventions(settings.backbone.separator_token, evaluated),
        "per_document": per_document,
    }
    context.store.write_json(RESULT, result)
    Checkpoints(context.store.path).remove()
    clock = context.store.committed_unit(CLOCK)
    tokens = sum(per_document["tokens"])
    shown = {
        f"kl {row}": sum(columns["kl"]) / tokens for row, columns in per_document["arms"].items() if "kl" in columns
    }
    return {"arm": name, "seed_number": number, "fvu": result["fvu"], **shown, "training": clock}


def _prepare(
    context: StageContext, backbone: Backbone, bridge: BridgeBase, layer: int, phases: Phases
) -> tuple[BatchSource, LayerFacts, np.ndarray, np.ndarray]:
    """Return the batch source with the arm's frame, the layer's facts, training and validation windows."""
    settings, inputs = context.settings, cast(Any, context.inputs)
    windows = load_windows(inputs["corpus"], "train")
    documents_N = windows.document_N[: settings.ablation.num_sequences]
    train_windows, validation = split_by_document(documents_N, settings.ablation.validation_fraction, settings.seed)
    fitted = train_windows[: bridge.ridge_windows]
    lengths_N = torch.from_numpy(windows.lengths_N).long()
    targets = RecomputeTargets(backbone, windows, layer)
    frame = Frame(backbone.hidden_size, bridge.ridge_tokens)
    source = BatchSource(backbone, windows, targets, frame, bridge.clip_sd)
    wanted = (inputs["corpus"].digest, layer, fitted.tobytes(), bridge.ridge_tokens, bridge.ridge_penalty)
    for kept in _frames:
        if kept.backbone() is backbone and kept.wanted == wanted:
            return source.with_frame(kept.frame), kept.facts, train_windows, validation
    bridge_settings = cast(Any, bridge)
    condition, factor = fit_condition(
        source.embed, lengths_N, fitted, bridge_settings, "embedding output", phases.of("condition")
    )
    frame, facts = fit_frame(
        condition,
        factor,
        source.embed,
        targets.states,
        lengths_N,
        fitted,
        bridge_settings,
        f"layer {layer}",
        phases.of("layer"),
    )
    _frames[:] = [*_frames[-1:], _Kept(weakref.ref(backbone), wanted, frame, facts)]
    return source.with_frame(frame), facts, train_windows, validation


def _evaluate(
    context: StageContext,
    backbone: Backbone,
    layer: int,
    name: str,
    arm: Arm,
    steps: tuple[int, ...],
    seed: int,
    windows: Windows,
    progress: Progress,
) -> dict[str, Any]:
    """Return sums per document: tokens, and NLL, KL and top-1 of teacher and arm at every number of steps."""
    if isinstance(arm, TrainedArm):
        arm.requires_grad_(False)
    hybrids = {row_name(name, count): Hybrid(backbone, layer, arm, count, seed) for count in steps}
    evaluate_batches(dataclasses.replace(context, progress=progress), backbone, hybrids, windows)
    sums = committed_sums(context, windows)
    return summarise(sums, windows, 0, 0.95, seed, context.settings.ablation.evaluation_set)["per_document"]
