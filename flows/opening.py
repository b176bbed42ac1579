"""How every flow opens: readable run name, settings with pinned values, checks, and the plan as first artifact."""

from typing import Any

from prefect.runtime import flow_run

from dihal_core.errors import ConfigError
from dihal_core.planning import plan_study, preflight
from dihal_core.profiles import load_study
from dihal_core.store import resolve_home
from dihal_core.study import pin_settings
from flows.guard import guard_run, guard_settings
from tasks.study import StudyRun

MAX_TASKS = 64
"""Threads of the task runner; how many units really run at once is `compute.*_workers`."""


def flow_run_name() -> str:
    """Return `<profile> · <backbone> · seed <n>` from the parameters of the run."""
    given = flow_run.parameters
    profile, seed = given.get("profile", "quickstart"), given.get("seed", 0)
    try:
        backbone = load_study(profile, given.get("backbone"), seed, given.get("overrides")).backbone.name
    except ConfigError:  # the flow itself will say what is wrong
        backbone = given.get("backbone") or "unknown backbone"
    return f"{profile} · {backbone} · seed {seed}"


def open_study(
    flow: str,
    backbone: str | None,
    profile: str,
    seed: int,
    overrides: dict[str, Any] | None,
    force: list[str] | None,
) -> StudyRun:
    """Return a study that is ready to run the stages of `flow`.

    Raises
    ------
    ConfigError, AssetError, ResourceError
        If settings, weights or disk space will not do, or a deployment's run asks for what its operator has not
        permitted: before anything is spent.
    """
    guard_run()
    settings = load_study(profile, backbone, seed, overrides)
    guard_settings(settings, resolve_home())
    settings = pin_settings(settings, ask_hub=True)
    study = StudyRun(settings, resolve_home(), force=tuple(force or ()))
    preflight(settings, study.home, flow)
    study.show_plan(plan_study(settings, study.home, flow))
    return study
