"""What a study run shows people: its plan, the sealed selection, the answer with page and ledger; and its record."""

import logging
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact

from dihal_core.change import sentence
from dihal_core.config.targets import explain_targets
from dihal_core.contract import unit_label
from dihal_core.exposition import write_metrics
from dihal_core.history import read_result
from dihal_core.remote.link import push_study
from dihal_core.store import StageRecord
from dihal_core.study import PUBLISHED, publish_hybrid, publish_study, seal_selection
from tasks.links import place
from tasks.progress import artifact_key
from tasks.study import StudyRun, told_in_journal

log = logging.getLogger(__name__)


@told_in_journal
def seal(study: StudyRun) -> None:
    """Commit the selection before the first bridge is trained."""
    sealed = seal_selection(study.home, study.settings, study.record("score"))
    create_markdown_artifact(
        f"## Sealed selection: layer {sealed['selected_layer']}\n\nScore digest `{sealed['score_digest']}`, "
        f"committed {sealed['committed']}. "
        + (
            "No bridge of this home had been trained before it."
            if not sealed["earlier_sweep_stores"]
            else f"**{sealed['earlier_sweep_stores']} bridges had been trained in this home before it.**"
        )
        + study.links(study.record("score")),
        key=artifact_key(study.ledger["study"], "sealed-selection"),
    )
    log.info("selection sealed: layer %s, digest %s", sealed["selected_layer"], sealed["score_digest"][:12])


def show_plan(study: StudyRun, rows: list[dict[str, Any]]) -> None:
    """Publish the run's first artifact: what will run and why; a forced stage runs whatever is stored."""
    lines = "\n".join(
        f"| {row['stage']} | {row['units']} | {row['units'] if row['stage'] in study.force else row['to_run']} | "
        f"{'will run: forced' if row['stage'] in study.force else row['why']} |"
        for row in rows
    )
    targets = any(row["stage"] == "sweep" for row in rows) and f"\n\n{explain_targets(study.settings)}"
    create_markdown_artifact(
        f"## What will run and why\n\n| stage | units | to run | why |\n|---|---:|---:|---|\n{lines}{targets or ''}"
        + study.links(),
        key=artifact_key(study.ledger["study"], "plan"),
        description="why each stage runs again or is taken from its store",
    )


@told_in_journal
def finish(study: StudyRun, stage: str = "report") -> dict[str, Any]:
    """Publish the page of the flow's last stage and the ledger; return the result as a small record."""
    report = study.record(stage)
    study.settle()
    page = publish_study(study.home, study.settings, report, study.ledger)
    if isinstance(study.records.get("hybrid"), StageRecord):
        publish_hybrid(study.record("hybrid"), page.parent)
    answer = [str(line) for line in report.counts["answer"]]
    change = (read_result(page.parent / PUBLISHED[stage][1]) or {}).get("difference")
    if change and study.journal is not None:
        study.journal.content["difference"] = sentence(change)
    return outcome(study, page, [*answer, change["line"]] if change else answer, stage)


def outcome(study: StudyRun, page: Path, answer: list[str], stage: str) -> dict[str, Any]:
    """Show the answer as the run's last artifact, close the journal, and return the result as a small record."""
    shared = push_study(study.home, page.parent.name)
    create_markdown_artifact(
        "## Answer\n\n"
        + "\n".join(f"- {line}" for line in answer)
        + f"\n\nReport: {place(study.home, page)}"
        + study.links(),
        key=artifact_key(study.ledger["study"], "answer" if stage == "report" else f"{stage}-answer"),
    )
    if study.journal is not None:
        write_metrics(study.home, study.ledger["study"], study.journal.content["flow"], study.ledger, len(study.failed))
        missing = ", ".join(unit_label(unit) for unit in study.failed)
        study.journal.close("partial" if missing else "finished", f"missing {missing}" if missing else None)
    return {
        "study": study.ledger["study"],
        "folder": str(page.parent),
        "report": str(page),
        **({"shared": shared} if shared else {}),
        "answer": answer,
        "failed_layers": {unit_label(unit): text for unit, text in study.failed.items()},
        "wall_seconds": study.ledger["wall_seconds"],
        "store_bytes": study.ledger["store_bytes"],
        "peak_memory_bytes": study.ledger["peak_memory_bytes"],
    }
