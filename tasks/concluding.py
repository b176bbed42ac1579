"""How flows end that have no report of their own: a JSON result in the study's folder, and the answer."""

import logging
from typing import Any

from prefect.artifacts import create_markdown_artifact

from dihal_core.comparing import comparison_lines
from dihal_core.files import dump_json, write_atomically
from dihal_core.history import Json
from dihal_core.remote.link import share_file
from dihal_core.reporting import outcomes
from dihal_core.requests import records_in
from dihal_core.sensitivity import Choice, choice_row
from dihal_core.store import StageRecord, read_json
from dihal_core.study import publish_hybrid
from tasks.links import place
from tasks.progress import artifact_key
from tasks.publishing import outcome
from tasks.study import StudyRun

log = logging.getLogger(__name__)


def sweep_outcome(study: StudyRun) -> dict[str, Any]:
    """Publish `sweep.json` and the answer of a study up to the agreement."""
    results = {
        "score": read_json(study.record("score"), "score.json"),
        "sweep": _by_unit(study, "sweep", "sweep.json"),
        "agreement": read_json(study.record("agreement"), "agreement.json"),
    }
    backbone = study.settings.backbone.model_dump(mode="json")
    return conclude(study, "sweep", outcomes.sweep_lines(results["score"], results["agreement"], backbone), results)


def replace_outcome(study: StudyRun) -> dict[str, Any]:
    """Publish `replace.json`, the hybrid as a model, and the answer."""
    results = {
        "replace": read_json(study.record("replace"), "replace.json"),
        "evaluate": _by_unit(study, "evaluate", "evaluation.json"),
    }
    lines = [outcomes.training_line(results["replace"]), *outcomes.hybrid_lines(results["evaluate"])]
    if "score" in study.records:
        results["score"] = read_json(study.record("score"), "score.json")
        lines.insert(0, outcomes.where_line(results["score"], study.settings.backbone.model_dump(mode="json")))
    model = publish_hybrid(study.record("hybrid"), study.folder)
    return conclude(study, "replace", [*lines, f'Model      dihal generate "Once" --model {model}'], results)


def evaluation_outcome(study: StudyRun) -> dict[str, Any]:
    """Publish `evaluation.json` beside the study that was evaluated."""
    results = {"evaluate": _by_unit(study, "evaluate", "evaluation.json")}
    return conclude(study, "evaluation", outcomes.hybrid_lines(results["evaluate"]), results)


def rescore(study: StudyRun, choice: Choice) -> Json:
    """Measure and score every layer under one choice, on the hidden states of `study` where they serve it."""
    other = StudyRun(choice.settings, study.home, study.force, study.journal, variant=choice.name)
    shared = ("assets", "corpus", "activations") if choice.reuses_dump else ("assets", "corpus")
    other.records = {name: study.records[name] for name in shared}
    other.futures = {name: study.futures[name] for name in shared}
    if not choice.reuses_dump:
        other.run("activations")
    other.run("geometry")
    other.run("score")
    study.ledger["stages"].update(other.ledger["stages"])
    study.reasons += other.reasons
    score, default = (read_json(item.record("score"), "score.json") for item in (other, study))
    row = choice_row(choice.name, choice.changes, choice.reuses_dump, score, default)
    log.info("choice %s: layer %d, default %d", choice.name, row["selected"], default["selected_layer"])
    return row


def sensitivity_outcome(study: StudyRun, rows: list[Json], left_out: dict[str, str]) -> dict[str, Any]:
    """Publish `sensitivity.json` and the table of all choices, the default first."""
    score = read_json(study.record("score"), "score.json")
    rows = [choice_row("default", "", True, score, score), *rows]
    lines = outcomes.sensitivity_lines(rows, study.settings.backbone.model_dump(mode="json"))
    notes = "".join(f"\n- {name}: {reason}" for name, reason in left_out.items())
    create_markdown_artifact(
        "## Selected layer under other choices\n\n"
        + outcomes.sensitivity_table(rows).markdown()
        + (f"\nNot measured:\n{notes}" if notes else "")
        + study.links(study.record("score")),
        key=artifact_key(study.ledger["study"], "sensitivity"),
        description="one row per choice the paper leaves open",
    )
    return conclude(study, "sensitivity", lines, {"score": score, "choices": rows, "left_out": left_out})


def comparison_outcome(home: Any, found: Json) -> dict[str, Any]:
    """Publish a comparison of studies under `<home>/comparisons` and show its table."""
    lines = comparison_lines(found)
    name = artifact_key(*(row["study"] for row in found["rows"]))[:80].rstrip("-")
    page = home / "comparisons" / f"{name}.json"
    table = outcomes.comparison_table(found["rows"])
    write_atomically(page, dump_json({"format": 1, **found, "answer": lines}))
    write_atomically(page.with_suffix(".csv"), table.csv().encode())
    shared = [share_file(home, f"comparisons/{path.name}") for path in (page.with_suffix(".csv"), page)][-1]
    changes = "\n".join(f"- {item['study']}: {item['line']}" for item in found["differences"])
    create_markdown_artifact(
        f"## Studies side by side\n\n{table.markdown()}"
        + (f"\n### Studies of one backbone\n\n{changes}\n" if changes else "")
        + "\n---\n"
        + "\n".join(f"Study {place(home, home / 'studies' / row['study'])}  " for row in found["rows"])
        + f"\nData: {place(home, page, ' '.join(('compare', *(row['study'] for row in found['rows']))))}",
        key=artifact_key("comparison", name),
    )
    told = {"shared": shared} if shared else {}
    return {"report": str(page), "folder": str(page.parent), **told, "answer": lines, "failed_layers": {}}


def conclude(study: StudyRun, flow: str, lines: list[str], results: Json) -> dict[str, Any]:
    """Write `<flow>.json` and its ledger into the study's folder and show the answer."""
    study.settle()
    page = study.folder / f"{flow}.json"
    records = [record for value in study.records.values() for record in records_in(value)]
    content = {
        "format": 1,
        "study": study.ledger["study"],
        "flow": flow,
        "settings": study.settings.model_dump(mode="json"),
        "answer": {"lines": lines},
        "failed_layers": {str(unit): text for unit, text in study.failed.items()},
        "records": [
            {"stage": r.stage, "unit": r.unit, "key": r.key, "digest": r.digest, "store": f"{r.stage}/{r.key}"}
            for r in records
        ],
        "results": results,
    }
    write_atomically(page, dump_json(content))
    write_atomically(study.folder / f"{flow}-ledger.json", dump_json(study.ledger))
    return outcome(study, page, lines, flow)


def _by_unit(study: StudyRun, stage: str, name: str) -> Json:
    records = study.records[stage]
    if isinstance(records, StageRecord):
        return {"": read_json(records, name)}
    return {str(unit): read_json(record, name) for unit, record in records.items()}
