"""The metrics stage: every entry of `METRICS` on one shared sample of rows and windows, all layers.

Letters: N rows of the sample, D columns, S windows, T positions.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from dihal_core.activations.reader import Pool, load_pool
from dihal_core.backbones.backbone import Backbone
from dihal_core.backbones.loading import load_backbone
from dihal_core.backbones.threads import resolve_device, use_threads
from dihal_core.corpus.windows import Windows, load_windows
from dihal_core.errors import NumericsError
from dihal_core.geometry.blas import blas_threads
from dihal_core.geometry.metrics import METRICS, measure_metrics, view_of
from dihal_core.geometry.metrics.view import LayerSummary
from dihal_core.seeding import stream


def build_metrics(context: Any) -> dict[str, Any]:
    """Write `metrics.json`: a row per layer, a matrix per metric of layer pairs, and the source of each.

    Raises
    ------
    ArtifactError
        If a layer's pool cannot be read.
    NumericsError
        NaN or inf, or a layer without variance.
    """
    settings, store = context.settings, context.inputs["activations"]
    layers = list(range(settings.backbone.num_layers + 1))
    use_threads(settings.activations.threads)
    backbone = load_backbone(
        settings.backbone, context.inputs["assets"], resolve_device(settings.compute.device), settings.seed
    )
    windows = load_windows(context.inputs["corpus"], "train")
    embedding = load_pool(store, 0)
    chosen_N = _rows(len(embedding.rows_ND), settings.metrics.rows, settings.seed)
    targets_N, predicts_N = _next_tokens(embedding, windows, chosen_N, settings.metrics.lens_rows)
    angles = _sequences(backbone, windows, layers, settings.metrics.sequences)
    rows, summaries = [], {}
    with blas_threads(settings.activations.threads):
        for done, layer in enumerate(layers):
            context.progress(done, len(layers), "layers")
            pool = load_pool(store, layer) if layer else embedding
            hidden_ND = pool.rows_ND[chosen_N]
            view = view_of(hidden_ND, settings.geometry, f"layer {layer}")
            found: dict[str, Any] = {"layer": layer, **measure_metrics(view), **angles[layer]}
            found["ridge_r2"] = _or_none(
                lambda hidden_ND=hidden_ND: METRICS["ridge_r2"].compute(
                    embedding.rows_ND[chosen_N], hidden_ND, embedding.document_N[chosen_N], settings.seed
                )
            )
            found["logit_lens_ce"] = None  # rows that are last or mean states of a window have no next token
            if predicts_N.any():
                found["logit_lens_ce"] = METRICS["logit_lens_ce"].compute(
                    hidden_ND[predicts_N], _head(backbone), targets_N[predicts_N]
                )
            rows.append(found)
            summaries[layer] = view.summary()
        matrices = _matrices(summaries)
    context.store.write_json(
        "metrics.json",
        {
            "layers": rows,
            **matrices,
            "rows": len(chosen_N),
            "documents": len(np.unique(embedding.document_N[chosen_N])),
            "sequences": min(settings.metrics.sequences, len(windows)),
            "sources": {name: f"{metric.meaning} ({metric.source})" for name, metric in METRICS.items()},
        },
    )
    context.progress(len(layers), len(layers), "layers")
    return {"layers": len(rows), "rows": len(chosen_N), "metrics": len(METRICS)}


def _rows(pool_rows: int, wanted: int, seed: int) -> np.ndarray:
    """The same rows for every layer, in pool order."""
    return np.sort(stream(seed, "geometry", "metric rows").permutation(pool_rows)[:wanted])


def _next_tokens(pool: Pool, windows: Windows, chosen_N: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The token after each row, and which rows have one: the first `most` of them."""
    sequence_N, position_N = pool.sequence_N[chosen_N], pool.position_N[chosen_N]
    next_N = position_N + 1
    exists_N = (position_N >= 0) & (next_N < windows.lengths_N[sequence_N])
    exists_N &= np.cumsum(exists_N) <= most
    return windows.tokens_NT[sequence_N, np.where(exists_N, next_N, 0)], exists_N


def _head(backbone: Backbone) -> Callable[[np.ndarray], np.ndarray]:
    return lambda hidden_BD: backbone.read_out(torch.from_numpy(np.ascontiguousarray(hidden_BD))).float().cpu().numpy()


def _sequences(backbone: Backbone, windows: Windows, layers: list[int], count: int) -> dict[int, dict[str, Any]]:
    """Prompt metrics of every layer on the first `count` windows, position 0 (the constant prefix) left out."""
    chosen = min(count, len(windows))
    states = backbone.collect(torch.from_numpy(np.array(windows.tokens_NT[:chosen])), layers)
    lengths_S = windows.lengths_N[:chosen] - 1
    return {
        layer: {
            name: _or_none(lambda name=name, kept=kept: METRICS[name].compute(kept, lengths_S))
            for name in ("prompt_entropy", "prompt_curvature")
        }
        for layer in layers
        for kept in [states[layer][:, 1:].float().cpu().numpy()]
    }


def _matrices(summaries: dict[int, LayerSummary]) -> dict[str, Any]:
    """Metrics over pairs of layers; a layer that has no variance among these rows leaves its row empty."""
    found: dict[str, Any] = {}
    for name, metric in METRICS.items():
        if metric.takes == "layers":
            matrix_LL = _or_none(lambda metric=metric: metric.compute(summaries))
            found[name] = {"layers": list(summaries), "matrix": None if matrix_LL is None else matrix_LL.tolist()}
    return found


def _or_none(compute: Callable[[], Any]) -> Any:
    try:
        return compute()
    except NumericsError:
        return None
