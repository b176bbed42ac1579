"""What a study will run, why, and what it costs, before anything is spent. Imports no torch.

Costs are arithmetic (FLOPs and bytes from shapes), turned into hours by rates that are named beside
them. They are for planning; the study prints its own ledger of what really happened.
"""

import json
import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dihal_core.activations.amount import describe_amount, dump_bytes, require_confirmed
from dihal_core.backbones.identity import backbone_identity
from dihal_core.bridges.ablation_arms import ABLATION_ARMS, ablation_units, parse_unit
from dihal_core.bridges.costs import (
    BridgeCosts,
    curve_costs,
    describe_latent,
    evaluation_costs,
    leak_costs,
    replace_costs,
    sweep_costs,
)
from dihal_core.bridges.sizes import bridge_size
from dihal_core.config import BackboneSettings, StudySettings, UnetBridgeSettings
from dihal_core.config.targets import explain_targets
from dihal_core.corpus.costs import DOWNLOAD_BYTES_PER_SECOND, describe_reading, reading_cost
from dihal_core.errors import AssetError
from dihal_core.explain import explain
from dihal_core.files import require_disk
from dihal_core.remote.link import check_home, pull_study
from dihal_core.requests import find
from dihal_core.stages import STAGES
from dihal_core.store import StageRecord
from dihal_core.study import Records, request_for, stages_of, study_name, swept_layers, units_of
from dihal_core.units import human_bytes

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
            "rate": rate / 4 if not on_gpu else rate,
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
            "rate": rate / 4 if not on_gpu else rate,
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
        "ablate": {**_ablation_cost(settings, per_token), "rate": rate / 4 if not on_gpu else rate},
        "ablation": {"bytes": 1e5, "flops": 0, "rate": rate},
    }


def plan_study(settings: StudySettings, home: Path, flow: str = "full-study") -> list[dict[str, Any]]:
    """Return one row per stage of `flow`: units, status, why, bytes, hours, task runs. Runs nothing."""
    records: Records = {}
    pull_study(home, study_name(settings))  # its seals are in the report's key
    costs = stage_costs(settings)
    rows = []
    stages = stages_of(flow, settings)
    for name in stages:
        stage = STAGES[name]
        units = units_of(name, settings, records)
        asked = list(units) if units is not None else [None]
        missing = [
            source
            for source in (*stage.inputs, *stage.after)
            if source not in records and (source in stages or (flow == "evaluate" and source in stage.inputs))
        ]
        made: dict[Any, StageRecord] = {}
        reasons: list[str] = []
        if missing:
            reasons.append(f"will run: its input {', '.join(missing)} will be made first")
        else:
            for unit in asked:
                request = request_for(name, settings, home, records, unit)
                status = find(request)
                reasons.append(explain(request, status))
                if status.record is not None:
                    made[unit] = status.record
        if len(made) == len(asked):
            records[name] = made if units is not None else made[None]
        to_run = len(asked) - len(made)
        first = next((reason for reason in reasons if not reason.startswith("cached")), None)
        first = first or (reasons[0] if reasons else "cached: this study needs none")
        cost = costs[name]
        share = to_run / len(asked) if asked else 0.0
        rows.append(
            {
                "stage": name,
                "units": len(asked),
                "to_run": to_run,
                "status": "cached" if to_run == 0 else "will run" if not made else f"{to_run} of {len(asked)} will run",
                "why": first,
                "bytes": int(cost["bytes"]),
                "bytes_to_write": int(cost["bytes"] * share),
                "download_bytes": int(cost.get("download", 0) * share),
                "hours": share
                * (
                    cost["flops"] / cost["rate"]
                    + max(cost.get("download", 0) / DOWNLOAD_BYTES_PER_SECOND, cost.get("seconds", 0))
                )
                / 3600,
                "task_runs": len(asked),
            }
        )
    return rows


def format_plan(settings: StudySettings, rows: list[dict[str, Any]]) -> str:
    """Return the plan as a table for the terminal."""
    on_gpu = settings.backbone.num_parameters > 2e9 or settings.compute.device == "cuda"
    unit = "GPU-hours" if on_gpu else "hours"
    lines = [
        f"study {study_name(settings)}: {settings.backbone.name}, profile {settings.profile}, seed {settings.seed}",
        f"{'stage':<12} {'tasks':>5} {'store':>8} {'download':>9} {unit:>9}  what and why",
    ]
    for row in rows:
        lines.append(
            f"{row['stage']:<12} {row['task_runs']:>5} {human_bytes(row['bytes']):>8} {human_bytes(row['download_bytes']):>9} "
            f"{row['hours']:>9.3g}  {row['status']}: {row['why'].removeprefix('will run: ').removeprefix('cached: ')}"
        )
    lines.append(
        f"{'total':<12} {sum(row['task_runs'] for row in rows):>5} {human_bytes(sum(row['bytes'] for row in rows)):>8} "
        f"{human_bytes(sum(row['download_bytes'] for row in rows)):>9} {sum(row['hours'] for row in rows):>9.3g}"
    )
    lines.append(
        f"Still to write: {human_bytes(sum(row['bytes_to_write'] for row in rows))} (the column `store` is what a stage holds "
        "once it is made, cached or not)."
    )
    rate = (
        "one H200-class GPU at 40 % of 790 TFLOP/s (geometry: 60 GFLOP/s float64 on two CPU cores)"
        if on_gpu
        else "two cores with bf16 vector instructions at 0.55 TFLOP/s (geometry 60 GFLOP/s float64)"
    )
    if settings.activations.store_everything:
        needed = sum(dump_bytes(settings).values()) / 1e9
        given = settings.compute.confirm_gigabytes
        verdict = (
            f"confirmed by compute.confirm_gigabytes={given:g}"
            if given >= needed
            else f"refused until compute.confirm_gigabytes={math.ceil(needed)} confirms it (now {given:g})"
        )
        lines.append(f"activations.store_everything writes {describe_amount(dump_bytes(settings))}; {verdict}")
    lines.append(f"Hours are arithmetic at assumed rates: {rate}, downloads at 50 MB/s. Nothing was fetched or run.")
    if any(row["stage"] == "sweep" for row in rows):
        lines.append(explain_targets(settings))
    lines.extend(describe_latent(settings))
    return "\n".join([*lines, *describe_reading(settings)])


def check_local_weights(backbone: BackboneSettings, home: Path) -> None:
    """Raise `AssetError` if the local weights of `backbone` are missing or plainly not what they claim to be."""
    backbone_identity(backbone, home)
    if backbone.source != "gguf":
        return
    with open(backbone.identifier, "rb") as handle:
        magic = handle.read(4)
    if magic != b"GGUF":
        raise AssetError(
            f"{backbone.identifier} does not begin with the GGUF magic (got {magic!r}); the file is corrupt or of "
            "another format, fetch it again"
        )
    from gguf import GGUFReader  # maps the file and checks that every tensor lies inside it

    try:
        GGUFReader(backbone.identifier)
    except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
        raise AssetError(
            f"{backbone.identifier} begins like a GGUF but cannot be read to its end ({type(error).__name__}: {error}); "
            "it is truncated or corrupt, fetch it again"
        ) from error


def preflight(settings: StudySettings, home: Path, flow: str = "full-study") -> list[str]:
    """Check what can fail before minutes are spent; return lines worth showing.

    Raises
    ------
    ResourceError
        If the stores will not fit on the disk.
    NetworkError
        If a remote home does not answer.
    AssetError, ConfigError
        If local weights are missing or unreadable, or the bytes of `activations.store_everything` are not confirmed.
    """
    check_home(home)
    check_local_weights(settings.backbone, home)
    if settings.activations.store_everything:
        require_confirmed(
            dump_bytes(settings),
            len(settings.table_layers),
            settings.activations.num_sequences,
            settings.compute.confirm_gigabytes,
        )
    rows = plan_study(settings, home, flow)
    needed = sum(row["bytes_to_write"] for row in rows)
    require_disk(home, needed, f"study {study_name(settings)}")
    to_run = [row["stage"] for row in rows if row["to_run"]]
    hours = sum(row["hours"] for row in rows)
    if not to_run:
        return [f"study {study_name(settings)}: every stage is cached"]
    return [
        f"study {study_name(settings)}: {settings.backbone.name}; to run: {', '.join(to_run)}",
        f"needs about {human_bytes(needed)} of disk under {home}; rough estimate {hours * 60:.0f} minutes "
        "(`dihal plan` says why each stage runs)",
    ]


def describe_settings(model: BaseModel, prefix: str = "") -> str:
    """Return every setting as `name = value  # meaning`, nested ones with dotted names."""
    lines = []
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            lines.append(describe_settings(value, f"{prefix}{name}."))
        else:
            shown = json.dumps(value, default=str)
            lines.append(f"{prefix}{name} = {shown}" + (f"  # {field.description}" if field.description else ""))
    return "\n".join(lines)
