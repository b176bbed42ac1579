"""What a study will run, why, and what it costs, before anything is spent. Imports no torch.

A plan joins what `dihal_core.requests` finds in the stores with the costs of `dihal_core.estimates`.
"""

import json
import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dihal_core.activations.amount import describe_amount, dump_bytes, require_confirmed
from dihal_core.backbones.identity import backbone_identity
from dihal_core.bridges.costs import describe_latent
from dihal_core.config import BackboneSettings, StudySettings
from dihal_core.config.targets import explain_targets
from dihal_core.corpus.costs import DOWNLOAD_BYTES_PER_SECOND, describe_reading
from dihal_core.errors import AssetError
from dihal_core.estimates import stage_costs
from dihal_core.explain import explain
from dihal_core.files import require_disk
from dihal_core.remote.link import check_home, pull_study
from dihal_core.requests import find
from dihal_core.stages import STAGES
from dihal_core.store import StageRecord
from dihal_core.study import Records, request_for, stages_of, study_name, units_of
from dihal_core.units import human_bytes


def plan_study(
    settings: StudySettings, home: Path, flow: str = "full-study", made_before: Records | None = None
) -> list[dict[str, Any]]:
    """Return one row per stage of `flow`: units, status, why, bytes, hours, task runs. Runs nothing.

    `made_before` are records of stages that the flow takes from elsewhere.
    """
    records: Records = dict(made_before or {})
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
