"""The full study: from text to the answer, one Prefect flow that reads as a table of contents."""

from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Completed, State
from prefect.task_runners import ThreadPoolTaskRunner

from dihal_core.errors import ConfigError
from dihal_core.planning import plan_study, preflight
from dihal_core.profiles import load_study
from dihal_core.store import resolve_home
from dihal_core.study import pin_settings
from tasks.study import StudyRun

MAX_TASKS = 64
"""Threads of the task runner; how many units really run at once is `compute.*_workers`."""


def _flow_run_name() -> str:
    given = flow_run.parameters
    profile, seed = given.get("profile", "quickstart"), given.get("seed", 0)
    try:
        backbone = load_study(profile, given.get("backbone"), seed, given.get("overrides")).backbone.name
    except ConfigError:  # the flow itself will say what is wrong
        backbone = given.get("backbone") or "unknown backbone"
    return f"{profile} · {backbone} · seed {seed}"


@flow(
    name="dihal",
    flow_run_name=_flow_run_name,
    task_runner=ThreadPoolTaskRunner(max_workers=MAX_TASKS),
    validate_parameters=True,
    persist_result=True,
    result_serializer="json",
)
def full_study(
    backbone: str | None = None,
    profile: str = "quickstart",
    seed: int = 0,
    overrides: dict[str, Any] | None = None,
    force: list[str] | None = None,
) -> State[Any] | dict[str, Any]:
    """Locate the layer where diffusion should enter, test the prediction, train and evaluate the hybrid.

    Args:
        backbone: Preset name or local model folder; None keeps the profile's own.
        profile: Name of a shipped profile (`quickstart`, `smoke`, `thorough`, `gemma`, `paper-...`).
        seed: Root of all random streams.
        overrides: Dotted settings, e.g. `{"sweep.training.max_steps": 40}`.
        force: Stages to run again although they are cached.
    """
    settings = pin_settings(load_study(profile, backbone, seed, overrides), ask_hub=True)
    study = StudyRun(settings, resolve_home(), force=tuple(force or ()))
    preflight(settings, study.home)
    study.show_plan(plan_study(settings, study.home))

    study.run("assets")
    study.run("corpus")
    study.run("gates")
    study.run("activations")
    study.run("geometry")
    study.run("score")
    study.seal()
    study.run("ridge")
    study.run("sweep", tolerate_failures=True)
    study.run("agreement")
    study.run("replace")
    study.run("evaluate")
    study.run("hybrid")
    study.run("report")

    result = study.finish()
    if study.failed:
        layers = ", ".join(result["failed_layers"])
        return Completed(name="Partial", message=f"layers {layers} are missing; run again to fill them", data=result)
    return result
