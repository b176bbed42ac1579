"""What each stage of a study costs before it runs: bytes and FLOPs from shapes, seconds from rates. Imports no torch.

Rates are assumed and named here; they are for planning. The study prints its own ledger of what really happened.
"""

from pathlib import Path
from typing import Any

from dihal_core.activations.amount import dump_bytes
from dihal_core.bridges.ablation_arms import ABLATION_ARMS, ablation_units, parse_unit
from dihal_core.bridges.costs import (
    BridgeCosts,
    curve_costs,
    evaluation_costs,
    leak_costs,
    replace_costs,
    sweep_costs,
)
from dihal_core.bridges.sizes import bridge_size
from dihal_core.config import StudySettings, UnetBridgeSettings
from dihal_core.corpus.costs import reading_cost
from dihal_core.study import swept_layers

GPU_FLOPS = 790e12 * 0.40
"""Assumed: bf16 rate of one H200-class GPU at 40 % model FLOP utilisation."""
CPU_FLOPS = 0.55e12
"""Assumed: two cores with bf16 vector instructions (a 135M model forwarded 2,000 to 3,000 tokens a second)."""
GEOMETRY_CPU_FLOPS = 60e9
"""Assumed: float64 on two CPU cores, decompositions included; also where geometry.backend=torch-cuda would be faster."""
ASSET_BYTES = {"model": 100e6, "text": 46e6}


def _training_tokens(settings: StudySettings, section: Any, fraction: float) -> float:
    training, window = section.training, settings.corpus.window_tokens
    full = section.num_sequences * fraction * training.epochs
    steps = min(full / training.batch_sequences, training.max_steps or float("inf"))
    return steps * training.batch_sequences * window


def _ablation_cost(settings: StudySettings, per_token: float) -> dict[str, float]:
    """Bytes and FLOPs of all trainings and evaluations of the comparison."""
    chosen, backbone, window = settings.ablation, settings.backbone, settings.corpus.window_tokens
    windows = (chosen.num_sequences or settings.corpus.num_sequences) * chosen.training.epochs
    steps = min(windows / chosen.training.batch_sequences, chosen.training.max_steps or float("inf"))
    tokens = steps * chosen.training.batch_sequences * window
    arms = [ABLATION_ARMS[parse_unit(unit)[0]] for unit in ablation_units(chosen)]
    bridges = [(arm, arm.settings(settings.bridge, chosen)) for arm in arms if arm.trained]
    sizes = [bridge_size(bridge, backbone.hidden_size) for _, bridge in bridges]
    costs = [(arm, BridgeCosts.of(bridge, backbone.hidden_size, window)) for arm, bridge in bridges]
    wide = sum(_wide_ridge_flops(settings) * tokens for arm in arms if arm.arm == "ridge-all")
    scored = getattr(settings.corpus, f"num_{chosen.evaluation_set}") * window
    rows = sum(1 + len(chosen.sampling_steps if arm.diffusion else (1,)) for arm in arms)
    prefix = per_token * chosen.layer / backbone.num_layers
    trained = sum(cost.training(tokens) + tokens * prefix for _, cost in costs)
    steps_of = {True: chosen.sampling_steps, False: (1,)}
    predicted = sum(cost.predicting(scored, steps) for arm, cost in costs for steps in steps_of[arm.diffusion])
    return {
        "bytes": sum(4 * size.parameters for size in sizes) + 1e5 * len(arms),
        "flops": trained + predicted + wide + rows * scored * per_token,
    }


def _wide_ridge_flops(settings: StudySettings) -> float:
    """FLOPs per token of the normal equations of a ridge map: features x features and features x states."""
    features = settings.bridge.ridge_tokens * settings.backbone.hidden_size
    return 2.0 * features * (features + settings.backbone.hidden_size)


def _hub_bytes(settings: StudySettings) -> float:
    """Weights that come from the hub at the first load: backbone in 16 bits, UNet and VAE of SD v1.5 in 32."""
    total = 2.0 * settings.backbone.num_parameters if settings.backbone.source == "hub" else 0.0
    bridge = settings.bridge
    if isinstance(bridge, UnetBridgeSettings):
        for source, size in ((bridge.unet, 3.44e9), (bridge.vae, 0.335e9)):
            total += size if source not in (None, "random") and not Path(str(source)).exists() else 0.0
    return total


def stage_costs(settings: StudySettings) -> dict[str, dict[str, float]]:
    """Return `{stage: {"bytes", "flops", "rate", "download"}}` of all units together."""
    backbone, corpus, acts = settings.backbone, settings.corpus, settings.activations
    depth, width, window = backbone.num_layers, backbone.hidden_size, corpus.window_tokens
    swept = swept_layers(settings, None)
    candidates, per_token = len(swept), 2.0 * backbone.num_parameters
    tables, size = len(settings.table_layers), bridge_size(settings.bridge, width)
    bridge = size.parameters
    on_gpu = backbone.num_parameters > 2e9 or settings.compute.device == "cuda"
    rate = GPU_FLOPS if on_gpu else CPU_FLOPS

    g, pool = settings.geometry, acts.num_sequences * acts.positions_per_sequence
    dual = g.large_size <= width
    n, m = g.large_size, min(g.large_size, width)
    large = (n * n * width if dual else n * width**2) + 4 * m**3 / 3 + 2 * m * m * min(n, 2 * g.num_pairs)
    geometry = tables * (
        g.large_count * large + (pool**2 * width if pool <= g.max_pool_rows else g.large_count * n * n * width)
    )

    sweep_tokens = _training_tokens(settings, settings.sweep, 1 - settings.sweep.validation_fraction)
    validation = settings.sweep.num_sequences * settings.sweep.validation_fraction * window
    recompute = 0.0 if acts.whole_sequences else sum(swept) / depth * per_token
    likelihood = candidates * settings.sweep.likelihood_sequences * window * 2 * per_token * 0.6
    final_tokens = _training_tokens(settings, settings.replace, 1.0)
    evaluated = (corpus.num_heldout + corpus.num_eval_wiki) * window
    arms = 4 + len(settings.evaluation.sampling_steps)
    reading = reading_cost(settings)
    asset_bytes = ASSET_BYTES["model"] * (backbone.source == "asset") + ASSET_BYTES["text"] * (corpus.kind == "offline")
    windows = (corpus.num_sequences + corpus.num_heldout + corpus.num_eval_wiki) * (window * 4 + 20)

    return {
        "assets": {"bytes": asset_bytes, "flops": 0, "rate": rate, "download": asset_bytes},
        "corpus": {
            "bytes": windows + reading["spool"],
            "flops": 0,
            "rate": rate,
            "download": reading["download"],
            "seconds": reading["seconds"],
        },
        "gates": {
            "download": _hub_bytes(settings),
            "bytes": 1e4,
            "flops": 4 * window * per_token * (depth / 2 + 2) + leak_costs(settings),
            "rate": rate,
        },
        "activations": {
            "bytes": sum(dump_bytes(settings).values()),
            "flops": acts.num_sequences * window * per_token,
            "rate": rate,
        },
        "geometry": {"bytes": tables * 6e4, "flops": geometry, "rate": GEOMETRY_CPU_FLOPS},
        "score": {"bytes": 5e4, "flops": 0, "rate": rate},
        "ridge": {
            "bytes": 4 * (3 * width) ** 2,
            "flops": 2 * min(settings.bridge.ridge_windows, settings.sweep.num_sequences) * window * (3 * width) ** 2,
            "rate": rate / 4,
        },
        "sweep": {
            "bytes": candidates * settings.sweep.seeds * 8 * bridge,
            "flops": settings.sweep.seeds
            * (
                sweep_costs(settings, sweep_tokens, tuple(swept))
                + (sweep_tokens + 2 * validation) * recompute
                + likelihood
            ),
            "rate": rate / 2 if not on_gpu else rate,
        },
        "agreement": {"bytes": 5e4, "flops": 0, "rate": rate},
        "replace": {
            "bytes": 16 * bridge,
            "flops": replace_costs(settings, final_tokens)
            + final_tokens * per_token * 0.1
            + settings.replace.ridge_all
            * _wide_ridge_flops(settings)
            * final_tokens
            / settings.replace.training.epochs,
            "rate": rate / 2 if not on_gpu else rate,
        },
        "evaluate": {
            "bytes": 1e5,
            "flops": evaluated * per_token * arms + evaluation_costs(settings, evaluated, 2),
            "rate": rate,
        },
        "cost": {
            "bytes": 1e4,
            "flops": per_token * window * settings.cost.windows * (1 + len(settings.cost.sampling_steps))
            + per_token * window * settings.cost.timed_windows * 2 * (settings.cost.rounds + 1)
            + curve_costs(settings),
            "rate": rate,
        },
        "hybrid": {"bytes": 4 * bridge + 1e7, "flops": 0, "rate": rate},
        "report": {"bytes": 2e6, "flops": 0, "rate": rate},
        "metrics": {
            "bytes": 1e5,
            "flops": tables**2 * settings.metrics.rows**2 * width
            + tables * settings.metrics.rows * backbone.vocab_size * width * 2,
            "rate": GEOMETRY_CPU_FLOPS,
        },
        "locate": {"bytes": 3e6, "flops": 0, "rate": rate},
        "ablate": {**_ablation_cost(settings, per_token), "rate": rate / 2 if not on_gpu else rate},
        "ablation": {"bytes": 1e5, "flops": 0, "rate": rate},
    }
