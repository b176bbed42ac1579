"""Figures of finished runs in Prometheus' text format, for node_exporter's textfile collector.

One file per study and flow: `<home>/prometheus/<study>-<flow>.prom`. Point the collector at that folder.
"""

import time
from pathlib import Path
from typing import Any

from dihal_core.files import write_atomically

FOLDER = "prometheus"
STUDY_FIGURES = {
    "wall_seconds": ("dihal_run_seconds", "Wall time of the last run."),
    "store_bytes": ("dihal_run_store_bytes", "Bytes of the stores the run used."),
    "peak_memory_bytes": ("dihal_run_peak_memory_bytes", "Largest resident memory of the flow's process."),
}
STAGE_FIGURES = {
    "wall_seconds": ("dihal_stage_seconds", "Wall time of a stage in the last run."),
    "units": ("dihal_stage_units", "Task runs of a stage in the last run."),
    "cached": ("dihal_stage_cached_units", "Task runs of a stage that were taken from their store."),
}


def exposition(study: str, flow: str, ledger: dict[str, Any], missing: int, finished: float) -> str:
    """Return the text of one run; `finished` is in seconds since 1970."""
    common = f'study="{_escape(study)}",flow="{_escape(flow)}"'
    lines: list[str] = []

    def add(name: str, text: str, samples: list[tuple[str, float]]) -> None:
        lines.extend([f"# HELP {name} {text}", f"# TYPE {name} gauge"])
        lines.extend(f"{name}{{{labels}}} {value:.15g}" for labels, value in samples)

    add("dihal_run_finished_timestamp_seconds", "When the last run ended.", [(common, finished)])
    add("dihal_run_missing_units", "Units that failed and are missing.", [(common, float(missing))])
    for key, (name, text) in STUDY_FIGURES.items():
        add(name, text, [(common, float(ledger[key]))])
    for key, (name, text) in STAGE_FIGURES.items():
        stages = ledger["stages"].items()
        add(name, text, [(f'{common},stage="{_escape(stage)}"', float(facts[key])) for stage, facts in stages])
    return "\n".join(lines) + "\n"


def write_metrics(home: Path, study: str, flow: str, ledger: dict[str, Any], missing: int) -> Path:
    """Write the figures of a run that ended and return the file."""
    path = home / FOLDER / f"{study}-{flow}.prom"
    write_atomically(path, exposition(study, flow, ledger, missing, time.time()).encode(), durable=False)
    return path


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
