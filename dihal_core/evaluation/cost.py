"""Stage `cost`: what more sampler steps buy, and what a token costs in the hybrid and in the backbone.

Quality: KL, NLL and top-1 of the trained bridge at several numbers of sampler steps, on some windows of the headline
set, each of another document while there are any. Cost: FLOPs per token counted from the operators that run, and
seconds per token measured on whole windows, all parts in turn in every round, so that a busy machine slows all of
them. Seconds go into the record, which is no part of the store's digest; everything else is.

Letters: B windows of a batch, T positions, W windows.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch

from dihal_core.backbones.backbone import Backbone
from dihal_core.backbones.loading import load_backbone
from dihal_core.backbones.threads import resolve_device, use_threads
from dihal_core.bridges.arms import load_arms
from dihal_core.bridges.frame import Arm
from dihal_core.contract import StageContext
from dihal_core.corpus.windows import Windows, load_windows
from dihal_core.errors import ConfigError
from dihal_core.evaluation.evaluate import score_batch
from dihal_core.evaluation.flops import counted_flops
from dihal_core.evaluation.intervals import DocumentBootstrap, perplexity, sum_by_document
from dihal_core.hybrid.model import Hybrid
from dihal_core.progress import Progress
from dihal_core.seeding import stream

RESULT = "cost.json"
HEADLINE = ("eval_wiki", "heldout")
"""Sets in the order in which they are asked for windows."""
BATCH_WINDOWS = 6
"""Windows per forward of the curve: part of the result's last bits, so it is fixed."""
CURVE_SHARE = 70.0
"""Rough share of the time in per cent, for the progress display only."""


def build_cost(context: StageContext) -> dict[str, Any]:
    """Measure the bridge that stage `replace` trained; write `cost.json`, return seconds in the counts.

    Raises
    ------
    ConfigError
        If no evaluation set holds a window.
    NumericsError
        If a prediction is not finite.
    """
    settings, inputs = context.settings, cast(Any, context.inputs)
    chosen = settings.cost
    use_threads(chosen.threads)
    device = resolve_device(settings.compute.device)
    backbone = load_backbone(settings.backbone, inputs["assets"], device, settings.seed)
    folder = inputs["replace"].path
    layer = int(json.loads((folder / "replace.json").read_bytes())["layer"])
    bridge = load_arms(folder / "arms", device)["bridge"]
    name, windows = headline_windows(inputs["corpus"])
    indices = spread_windows(windows, chosen.windows)
    hybrids = {str(steps): Hybrid(backbone, layer, bridge, steps, settings.seed) for steps in chosen.sampling_steps}
    curve = quality_curve(
        backbone, hybrids, windows, indices, settings.evaluation, settings.seed,
        lambda done, total, _: context.progress(round(CURVE_SHARE * done / total, 1), 100, "%"),
    )  # fmt: skip
    tokens_BT = torch.from_numpy(np.asarray(windows.tokens_NT[indices[: chosen.timed_windows]], np.int64))
    parts = cost_parts(backbone, layer, bridge, tokens_BT, chosen.sampling_steps, settings.seed)
    one_1T = tokens_BT[:1]
    counted = cost_parts(backbone, layer, bridge, one_1T, chosen.sampling_steps, settings.seed)
    flops = {part: counted_flops(run) / one_1T.numel() for part, run in counted.items()}
    seconds = seconds_per_token(
        parts, tokens_BT.numel(), chosen.rounds,
        lambda done, total, _: context.progress(round(CURVE_SHARE + (100 - CURVE_SHARE) * done / total, 1), 100, "%"),
    )  # fmt: skip
    context.store.write_json(
        RESULT,
        {
            "layer": layer,
            "set": name,
            **curve,
            "flops_per_token": {**flops, **sums_of(flops, chosen.sampling_steps)},
            "timed": {"windows": len(tokens_BT), "positions": tokens_BT.shape[1], "rounds": chosen.rounds},
        },
    )
    return {"layer": layer, "windows": len(indices), "tokens": curve["tokens"], "seconds_per_token": seconds}


def headline_windows(corpus: Any) -> tuple[str, Windows]:
    """Return the first of the evaluation sets that holds windows, with its name."""
    for name in HEADLINE:
        windows = load_windows(corpus, name)
        if len(windows):
            return name, windows
    raise ConfigError("no evaluation set holds a window; raise corpus.num_eval_wiki or corpus.num_heldout")


def spread_windows(windows: Windows, count: int) -> np.ndarray:
    """Return up to `count` window indices, in order: the longest of every document, then further ones.

    Documents are taken in the order of the set. Windows without a scored prediction are left out.
    """
    lengths_N, document_N = np.asarray(windows.lengths_N), np.asarray(windows.document_N)
    order = [int(i) for i in np.argsort(-lengths_N, kind="stable") if lengths_N[i] >= 3]
    turn: dict[int, int] = {}
    ranked = []
    for index in order:
        document = int(document_N[index])
        turn[document] = turn.get(document, -1) + 1
        ranked.append((turn[document], document, index))
    return np.asarray(sorted(index for _, _, index in sorted(ranked)[:count]), dtype=np.int64)


def quality_curve(
    backbone: Backbone,
    hybrids: Mapping[str, Hybrid],
    windows: Windows,
    indices: np.ndarray,
    evaluation: Any,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Return counts, the teacher and KL, NLL, PPL, top-1 per number of steps, with paired differences from the first.

    Intervals come from resampling documents.
    """
    columns: dict[str, dict[str, list[np.ndarray]]] = {steps: {} for steps in hybrids}
    shared: dict[str, list[np.ndarray]] = {"tokens": [], "teacher": []}
    for start in range(0, len(indices), BATCH_WINDOWS):
        progress(start, len(indices), "windows")
        batch = indices[start : start + BATCH_WINDOWS]
        tokens_BT = torch.from_numpy(np.asarray(windows.tokens_NT[batch], np.int64))
        lengths_B = torch.from_numpy(np.asarray(windows.lengths_N[batch], np.int64))
        metrics = score_batch(backbone, hybrids, tokens_BT, lengths_B, int(start))
        first = next(iter(metrics.values()))
        shared["tokens"].append(first.mask_BT.sum(axis=1))
        shared["teacher"].append(first.teacher_nll_BT.sum(axis=1))
        for steps, found in metrics.items():
            for quantity in ("nll", "kl", "top1"):
                columns[steps].setdefault(quantity, []).append(getattr(found, f"{quantity}_BT").sum(axis=1))
    document_G, index_W = np.unique(np.asarray(windows.document_N)[indices], return_inverse=True)

    def total(parts: list[np.ndarray]) -> np.ndarray:
        return sum_by_document(np.concatenate(parts), index_W, len(document_G))

    tokens_G, teacher_G = total(shared["tokens"]), total(shared["teacher"])
    sums = {steps: {quantity: total(parts) for quantity, parts in found.items()} for steps, found in columns.items()}
    boot = DocumentBootstrap(
        len(document_G), evaluation.bootstrap_replicates, evaluation.confidence, stream(seed, "cost", "bootstrap")
    )
    base = next(iter(sums))
    return {
        "windows": len(indices),
        "documents": len(document_G),
        "tokens": int(tokens_G.sum()),
        "teacher": {"nll": boot.ratio(teacher_G, tokens_G), "ppl": boot.ratio(teacher_G, tokens_G, perplexity)},
        "curve": {
            steps: {
                "kl": boot.ratio(found["kl"], tokens_G),
                "nll": boot.ratio(found["nll"], tokens_G),
                "ppl": boot.ratio(found["nll"], tokens_G, perplexity),
                "top1": boot.ratio(found["top1"], tokens_G),
                "kl_difference": None if steps == base else boot.difference(found["kl"], sums[base]["kl"], tokens_G),
            }
            for steps, found in sums.items()
        },
    }


def cost_parts(
    backbone: Backbone, layer: int, bridge: Arm, tokens_BT: torch.Tensor, sampling_steps: tuple[int, ...], seed: int
) -> dict[str, Callable[[], object]]:
    """Return what is timed and counted: the blocks that are replaced, the bridge, what is kept, the whole model."""
    suffix = backbone.suffix(layer)
    embeddings_BTD, hidden_BTD = backbone.embed(tokens_BT), backbone.prefix(tokens_BT, layer)
    final_BTD = suffix(hidden_BTD)
    sequence_B = torch.arange(len(tokens_BT))
    parts: dict[str, Callable[[], object]] = {
        "replaced blocks": lambda: backbone.prefix(tokens_BT, layer),
        "kept blocks": lambda: suffix(hidden_BTD),
        "head": lambda: backbone.logits(final_BTD),
        "backbone": lambda: backbone.logits(backbone.final(tokens_BT)),
    }
    for steps in sampling_steps:
        parts[f"bridge@{steps}"] = lambda steps=steps: bridge.predict(embeddings_BTD, steps, sequence_B, seed)
    return parts


def sums_of(cost: Mapping[str, float], sampling_steps: tuple[int, ...]) -> dict[str, float]:
    """Return the cost of the hybrid at every number of steps: bridge, kept blocks, head."""
    return {f"hybrid@{k}": cost[f"bridge@{k}"] + cost["kept blocks"] + cost["head"] for k in sampling_steps}


@torch.no_grad()
def seconds_per_token(
    parts: Mapping[str, Callable[[], object]], tokens: int, rounds: int, progress: Progress
) -> dict[str, dict[str, float]]:
    """Return median, smallest and largest seconds per token of every part and of the hybrid, and ratios to two others.

    Sums and ratios are taken within a round. One round before the first warms up and does not count.
    """
    found: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        progress(turn, rounds + 1, "rounds")
        row = {}
        for part, run in parts.items():
            started = time.perf_counter()
            run()
            _wait()
            row[part] = (time.perf_counter() - started) / tokens
        if turn == 0:
            continue
        steps = tuple(int(part.partition("@")[2]) for part in parts if part.startswith("bridge@"))
        row |= sums_of(row, steps)
        row |= {f"hybrid@{k} / backbone": row[f"hybrid@{k}"] / row["backbone"] for k in steps}
        row |= {f"bridge@{k} / replaced blocks": row[f"bridge@{k}"] / row["replaced blocks"] for k in steps}
        for part, value in row.items():
            found.setdefault(part, []).append(value)
    return {
        part: {"median": statistics.median(values), "low": min(values), "high": max(values)}
        for part, values in found.items()
    }


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
