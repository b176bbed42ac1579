"""Attention sinks and massive tokens, counted on whole windows: the geometry pool leaves the first positions out.

A few tokens of a decoder, mostly the first of a window, carry norms many times the others' and decide every statistic
of second order they enter (massive activations: Sun et al. 2024, arXiv 2402.17762). What the pool was spared, or
not, can only be told where they are: in one batch of whole windows.

Letters: B windows, T positions, D hidden size.
"""

from typing import Any

import numpy as np
import torch

from dihal_core.activations.names import SINKS
from dihal_core.activations.plan import DumpPlan
from dihal_core.backbones.backbone import Backbone
from dihal_core.store import StageRecord, read_json

MASSIVE_RATIO = 10.0
"""A token is massive if its norm exceeds this multiple of the layer's median norm (ours)."""


def count_sinks(backbone: Backbone, plan: DumpPlan) -> dict[str, Any]:
    """Return norms and massive tokens of every layer of the plan, on the first batch of its windows.

    Returns
    -------
    dict
        `windows`, `tokens`, `ratio`, `skipped_positions` (first positions that no pool row describes), and `layers`: per
        layer (as text) `median_norm` of all tokens, `position_0_norm_ratio` (median norm at position 0 over it; null
        where it is 0), `massive_tokens` and, of these, `massive_at_position_0`.
    """
    lengths_B = torch.from_numpy(plan.lengths_N[: plan.batch_sequences].astype(np.int64))
    real_BT = torch.arange(plan.positions) < lengths_B[:, None]
    layers: dict[str, dict[str, Any]] = {}

    def see(layer: int, hidden_BTD: torch.Tensor) -> None:
        norm_BT = hidden_BTD[: len(lengths_B)].float().norm(dim=-1).cpu().double()
        median = float(norm_BT[real_BT].median())
        massive_BT = real_BT & (norm_BT > MASSIVE_RATIO * median)
        layers[str(layer)] = {
            "median_norm": median,
            "position_0_norm_ratio": float(norm_BT[:, 0].median()) / median if median > 0 else None,
            "massive_tokens": int(massive_BT.sum()),
            "massive_at_position_0": int(massive_BT[:, 0].sum()),
        }

    backbone.visit(torch.from_numpy(plan.batch(0)), plan.table_layers, see)
    return {
        "windows": len(lengths_B),
        "tokens": int(real_BT.sum()),
        "ratio": MASSIVE_RATIO,
        "skipped_positions": plan.skip_positions,
        "layers": layers,
    }


def sinks_of(record: StageRecord, layer: int) -> dict[str, Any]:
    """Return what `count_sinks` found at `layer`, with `sink_windows`, `sink_tokens` and `skipped_positions`.

    Raises
    ------
    ArtifactError
        If the store of hidden states has no readable counts.
    """
    found = read_json(record, SINKS)
    return {
        **found["layers"][str(layer)],
        "sink_windows": found["windows"],
        "sink_tokens": found["tokens"],
        "skipped_positions": found["skipped_positions"],
    }
