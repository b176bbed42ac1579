"""The pipeline in one table: the README holds it, a test compares the two."""

from dihal_core.stages import STAGES
from tasks.retries import BACKOFF_SECONDS

ARTIFACT_CONTENT = {
    "assets": "files, sizes, digest",
    "corpus": "source mix and rejects",
    "gates": "largest splice difference, largest leak, caught control",
    "activations": "bytes, rate, verified rows",
    "geometry": "diagnostics of the layer",
    "score": "score curve with intervals, the three proxies, layer table, sealed digest",
    "ridge": "sizes of the shared factor and split",
    "sweep": "losses of bridge and controls at the layer",
    "agreement": "scatter, correlations, comparators",
    "replace": "training curves",
    "evaluate": "final table with intervals",
    "cost": "quality against sampler steps, cost per token",
    "hybrid": "the model card",
    "report": "the answer, link to the report",
    "metrics": "metrics of every layer",
    "locate": "the answer, link to the page",
    "ablate": "FVU, KL and seconds of the arm",
    "ablation": "the comparison, link to the table",
}


VALUES = {
    "assets": "pinned SHA-256",
    "corpus": "backbone identity, Python version",
    "geometry": "seed",
    "score": "nothing else",
    "agreement": "seed",
    "replace": "backbone identity, chosen layer",
    "report": "backbone identity, failed layers, seals",
    "locate": "backbone identity",
}
"""What enters a key beside settings, inputs, code and libraries."""


def stage_rows() -> list[tuple[str, ...]]:
    """Return (stage, task runs, reads, writes, cache key, retries, artifact) of every stage."""
    rows = []
    waits = ", ".join(str(wait) for wait in BACKOFF_SECONDS)
    for stage in STAGES.values():
        settings = [path or "all settings" for path in stage.reads]
        sealed = [f"{name} (its choice)" for name in stage.after]
        reads = ", ".join([*stage.inputs, *sealed, *(f"`{path}`" for path in settings)]) or "pinned list"
        key = "unit, " if stage.unit else ""
        libraries = f", versions of {', '.join(stage.libraries)}" if stage.libraries else ""
        rows.append(
            (
                f"`{stage.name}`",
                f"one per {stage.unit}" if stage.unit else "one",
                reads,
                stage.writes,
                f"{key}the settings and input digests at left, code closure, {VALUES.get(stage.name, 'backbone identity')}"
                f"{libraries}",
                f"network, storage, lost GPU: after {waits} s; settings, numerics, gates: none",
                ARTIFACT_CONTENT[stage.name],
            )
        )
    return rows


def stage_table() -> str:
    """Return the table in Markdown."""
    head = "| stage | task runs | reads | writes | cache key | retries | artifact |\n|---|---|---|---|---|---|---|\n"
    return head + "\n".join(f"| {' | '.join(row)} |" for row in stage_rows()) + "\n"
