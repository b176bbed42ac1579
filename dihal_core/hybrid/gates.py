"""Stage `gates`: exactness and causality, checked before any number is made.

Splice: the true state of every layer goes in, the teacher's logits must come out, bit for bit.
Leak: with all weights random and non-zero, the future must not touch the past; a leaky control must
be caught. Trained weights are probed again before evaluation.
Letters: B windows, T positions, D hidden size, V vocabulary.
"""

from typing import Any, cast

import numpy as np
import torch

from dihal_core.backbones.backbone import Backbone
from dihal_core.backbones.loading import load_backbone
from dihal_core.backbones.threads import resolve_device, use_threads
from dihal_core.bridges.causality import random_arm
from dihal_core.contract import StageContext
from dihal_core.corpus.windows import load_windows
from dihal_core.errors import GateError
from dihal_core.hybrid.leaks import backbone_leak, control_leak, require_no_leak
from dihal_core.progress import Progress

WINDOWS = 4
PROBED_ARMS = ("bridge", "regressor")


def build_gates(context: StageContext) -> dict[str, Any]:
    """Run both gates and write `gates.json`.

    Raises
    ------
    GateError
        If a splice is not exact, a bridge leaks, or the leaky control is not caught.
    """
    settings, inputs = context.settings, cast(Any, context.inputs)
    use_threads(settings.activations.threads)
    device = resolve_device(settings.compute.device)
    backbone = load_backbone(settings.backbone, inputs["assets"], device, settings.seed)
    windows = load_windows(inputs["corpus"], "train")
    longest_B = np.argsort(-windows.lengths_N[: 16 * WINDOWS], kind="stable")[:WINDOWS]
    tokens_BT = torch.from_numpy(np.asarray(windows.tokens_NT[np.sort(longest_B)], dtype=np.int64))
    splice = splice_gate(backbone, tokens_BT, context.progress)
    embeddings_BTD = backbone.embed(tokens_BT)
    arms = {
        name: random_arm(settings.bridge, backbone.hidden_size, settings.seed, name).to(device) for name in PROBED_ARMS
    }
    leaks = require_no_leak(arms, embeddings_BTD, "random", settings.seed)
    control = control_leak(embeddings_BTD, settings.seed)
    kinds = {"bridge": settings.bridge.kind, "regressor": "regressor"}
    report = {
        "splice": splice,
        "leak": {
            "bridges": [{"kind": kinds[name], "weights": "random", "max_change": leak} for name, leak in leaks.items()],
            "control": {"max_change": control, "caught": True},
            "backbone": {"max_change": backbone_leak(backbone, tokens_BT)},
        },
    }
    context.store.write_json("gates.json", report)
    return {
        "layers": len(splice["layers"]),
        "largest_splice_difference": splice["max"],
        "largest_leak": max(leaks.values()),
        "control_leak": control,
    }


@torch.no_grad()
def splice_gate(backbone: Backbone, tokens_BT: torch.Tensor, progress: Progress) -> dict[str, Any]:
    """Compare logits of prefix + suffix with those of the whole model at every layer 0..L-1.

    Returns
    -------
    dict
        Per layer the largest absolute logit difference, the maximum, the number of tokens, the dtype.

    Raises
    ------
    GateError
        If a difference is not exactly 0, naming the layer.
    """
    layers = range(backbone.num_layers)
    whole_BTV = backbone.model(input_ids=tokens_BT.to(backbone.device), use_cache=False).logits
    states = backbone.collect(tokens_BT, layers)
    rows = []
    for layer in layers:
        spliced_BTV = backbone.logits(backbone.suffix(layer)(states.pop(layer)))
        difference = 0.0 if torch.equal(spliced_BTV, whole_BTV) else float((spliced_BTV - whole_BTV).abs().max())
        if difference != 0.0:
            raise GateError(
                f"splice gate: the true state of layer {layer} gives logits that differ by {difference:.3g} from "
                f"{backbone.name} itself, exactly 0 is required; the family's line in "
                "dihal_core/backbones/registry.py leaves something out"
            )
        rows.append({"layer": layer, "max_abs_logit_difference": difference})
        progress(layer + 1, len(layers), "layers")
    return {
        "layers": rows,
        "max": max(row["max_abs_logit_difference"] for row in rows),
        "tokens": tokens_BT.numel(),
        "dtype": str(backbone.dtype).removeprefix("torch."),
    }
