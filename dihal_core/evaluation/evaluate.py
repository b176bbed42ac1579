"""Stage `evaluate`: NLL, KL and top-1 of the teacher, the hybrids and the controls on one set of windows.

Batches are committed one by one, so a killed run goes on with the next batch.
Letters: B windows of a batch, T positions, D hidden size.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch

from dihal_core.backbones.backbone import Backbone
from dihal_core.backbones.belongs import require_backbone
from dihal_core.backbones.loading import load_backbone
from dihal_core.backbones.threads import resolve_device, use_threads
from dihal_core.bridges.arms import load_arms
from dihal_core.bridges.frame import Arm
from dihal_core.contract import StageContext
from dihal_core.corpus.windows import Windows, load_windows
from dihal_core.errors import ConfigError
from dihal_core.evaluation.likelihood import TokenMetrics, score_finals
from dihal_core.evaluation.summary import TEACHER, summarise
from dihal_core.hybrid.leaks import require_no_leak
from dihal_core.hybrid.model import Hybrid

PROBED_WINDOWS = 4


def build_evaluation(context: StageContext) -> dict[str, Any]:
    """Evaluate the set named by the unit (`eval_wiki`, `heldout`) and write `evaluation.json`.

    Raises
    ------
    GateError
        If a trained arm leaks: checked before any likelihood is computed.
    NumericsError
        If a prediction is not finite.
    """
    settings, name, inputs = context.settings, str(context.unit), cast(Any, context.inputs)
    chosen = settings.evaluation
    windows = load_windows(inputs["corpus"], name)
    if not len(windows):
        raise ConfigError(f"evaluation set {name!r} holds no windows; raise corpus.num_{name} and run the study again")
    require_backbone(inputs["replace"].path, settings.backbone)
    use_threads(chosen.threads)
    device = resolve_device(settings.compute.device)
    backbone = load_backbone(settings.backbone, inputs["assets"], device, settings.seed)
    folder = inputs["replace"].path
    layer = int(json.loads((folder / "replace.json").read_bytes())["layer"])
    arms = load_arms(folder / "arms", device)
    probe_BT = padded_batch(windows, 0, min(PROBED_WINDOWS, len(windows)))
    leaks = require_no_leak(arms, backbone.embed(probe_BT), "trained", settings.seed)
    hybrids = make_hybrids(backbone, layer, arms, chosen.sampling_steps, settings.seed)
    evaluate_batches(context, backbone, hybrids, windows)
    sums = committed_sums(context, windows)
    report = summarise(sums, windows, chosen.bootstrap_replicates, chosen.confidence, settings.seed, name)
    context.store.write_json(
        "evaluation.json",
        {
            "set": name,
            "layer": layer,
            "teacher": settings.backbone.name,
            "conventions": conventions(settings.backbone.separator_token, windows),
            "leak": {"weights": "trained", "max_change": leaks},
            **report,
        },
    )
    shown = {f"nll {arm}": block["nll"]["value"] for arm, block in report["arms"].items()}
    return {"set": name, "layer": layer, "windows": len(windows), "tokens": report["tokens"], **shown}


def make_hybrids(
    backbone: Backbone, layer: int, arms: Mapping[str, Arm], sampling_steps: tuple[int, ...], seed: int
) -> dict[str, Hybrid]:
    """Return hybrids in reading order: `bridge@K` for every K, then the controls that exist."""
    found = {f"bridge@{steps}": Hybrid(backbone, layer, arms["bridge"], steps, seed) for steps in sampling_steps}
    for name in ("regressor", "ridge", "ridge-1", "ridge-all", "table", "skip"):
        if name in arms:
            found[name] = Hybrid(backbone, layer, arms[name], 1, seed)
    return found


def score_batch(
    backbone: Backbone,
    hybrids: Mapping[str, Hybrid],
    tokens_BT: torch.Tensor,
    lengths_B: torch.Tensor,
    first: int,
    tick: Callable[[float], None] = lambda share: None,
) -> dict[str, TokenMetrics]:
    """Score all hybrids on one batch whose first window has index `first` in its set.

    `tick` gets the share of the batch that is done, after every arm.
    """
    teacher_BTD, embeddings_BTD = backbone.final(tokens_BT), backbone.embed(tokens_BT)
    sequence_B = torch.arange(first, first + len(tokens_BT))
    finals = {}
    for arm, hybrid in hybrids.items():
        finals[arm] = hybrid.final(embeddings_BTD, sequence_B)
        tick(len(finals) / (len(hybrids) + 2))
    return score_finals(backbone, finals, tokens_BT, lengths_B, teacher_BTD)


def conventions(separator_token: str, windows: Windows) -> dict[str, str]:
    """Return how the numbers were made; figures under other conventions are not comparable."""
    positions = windows.tokens_NT.shape[1]
    return {
        "prefix": f"{separator_token} (id {windows.separator_id}) in front of every window, teacher and hybrid alike",
        "window": f"at most {positions} tokens with the prefix, inside one document, short last windows kept",
        "stride": "windows do not overlap: no context is carried over",
        "scored_from": "the second text token of a window on: the prefix state is a stored constant in the hybrid, "
        "so the prediction it makes is scored for nobody",
        "weighting": "sums over tokens divided by sums of tokens (bytes, words), never a mean of windows",
        "kl": "KL(teacher || hybrid), nats per token",
        "detokenised": "no",
    }


def padded_batch(windows: Windows, start: int, rows: int) -> torch.Tensor:
    """Return tokens_BT from window `start`, always `rows` rows; those past the end are separators only."""
    taken_BT = np.asarray(windows.tokens_NT[start : start + rows])
    batch_BT = np.full((rows, windows.tokens_NT.shape[1]), windows.separator_id, dtype=np.int64)
    batch_BT[: len(taken_BT)] = taken_BT
    return torch.from_numpy(batch_BT)


def evaluate_batches(
    context: StageContext, backbone: Backbone, hybrids: Mapping[str, Hybrid], windows: Windows
) -> None:
    """Score all hybrids batch by batch and commit each; committed batches are not scored again."""
    rows = context.settings.evaluation.batch_sequences
    done = context.store.committed()
    context.progress(0, len(windows), "windows")
    for start in range(0, len(windows), rows):
        if _unit(start) not in done:
            taken = np.asarray(windows.lengths_N[start : start + rows], dtype=np.int64)
            lengths_B = torch.from_numpy(np.pad(taken, (0, rows - len(taken))))

            def tick(share: float, start: int = start, count: int = len(taken)) -> None:
                context.progress(round(start + share * count, 1), len(windows), "windows")

            metrics = score_batch(backbone, hybrids, padded_batch(windows, start, rows), lengths_B, start, tick)
            context.store.commit(_unit(start), _window_sums(metrics, len(taken)))
        context.progress(min(start + rows, len(windows)), len(windows), "windows")


def _window_sums(metrics: Mapping[str, TokenMetrics], count: int) -> dict[str, Any]:
    """Return sums per window: JSON keeps every bit of a float64."""
    first = next(iter(metrics.values()))
    teacher = {"nll": first.teacher_nll_BT}
    arms = {arm: {"nll": m.nll_BT, "kl": m.kl_BT, "top1": m.top1_BT} for arm, m in metrics.items()}
    return {
        "tokens": first.mask_BT.sum(axis=1)[:count].tolist(),
        "arms": {
            arm: {name: values_BT.sum(axis=1)[:count].tolist() for name, values_BT in columns.items()}
            for arm, columns in {TEACHER: teacher, **arms}.items()
        },
    }


def committed_sums(context: StageContext, windows: Windows) -> dict[str, Any]:
    """Join the batches in window order."""
    committed = context.store.committed()
    starts = range(0, len(windows), context.settings.evaluation.batch_sequences)
    parts = [committed[_unit(start)] for start in starts]
    return {
        "tokens": np.concatenate([part["tokens"] for part in parts]),
        "arms": {
            arm: {name: np.concatenate([part["arms"][arm][name] for part in parts]) for name in columns}
            for arm, columns in parts[0]["arms"].items()
        },
    }


def _unit(start: int) -> str:
    return f"windows-{start:08d}"
