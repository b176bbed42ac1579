"""Evaluation alone: the hybrid of a finished study on its evaluation sets, e.g. with other sampling steps."""

from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.opening import open_finished
from flows.options import flow_options
from tasks.concluding import evaluation_outcome


def _run_name() -> str:
    return f"evaluate · {flow_run.parameters.get('study') or 'the last study'}"


@flow(name="dihal-evaluate", **flow_options(_run_name))
def evaluate(
    study: str | None = None, overrides: dict[str, Any] | None = None, force: list[str] | None = None
) -> dict[str, Any]:
    """Measure PPL and KL of the hybrid of a finished study; nothing is trained again.

    Args:
        study: Folder under `studies/`; None means the study finished last.
        overrides: Dotted settings under `evaluation.`, e.g. `{"evaluation.sampling_steps": [1, 8]}`.
        force: Stages to run again although they are cached.
    """
    finished = open_finished("evaluate", study, overrides, force)
    finished.run("assets")
    finished.run("evaluate")
    return evaluation_outcome(finished)
