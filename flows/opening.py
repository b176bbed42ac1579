"""How every flow opens: readable run name, settings with pinned values, checks, and the plan as first artifact."""

import logging
from typing import Any

from prefect.context import FlowRunContext
from prefect.runtime import flow_run

from dihal_core.cores import crowded
from dihal_core.errors import ConfigError, DihalError
from dihal_core.finished import evaluable, stored_records
from dihal_core.journal import RunJournal
from dihal_core.planning import plan_study, preflight
from dihal_core.profiles import load_study
from dihal_core.store import resolve_home
from dihal_core.study import pin_settings, stages_of
from flows.guard import guard_run, guard_settings
from tasks.publishing import show_plan
from tasks.runners import choose_runner
from tasks.slots import ensure_limits, gpu_slots, visible_gpus
from tasks.study import StudyRun

log = logging.getLogger(__name__)


def flow_run_name() -> str:
    """Return `<profile> · <backbone> · seed <n>` from the parameters of the run; parts of a study say which first."""
    given = flow_run.parameters
    profile, seed = given.get("profile", "quickstart"), given.get("seed", 0)
    try:
        backbone = load_study(profile, given.get("backbone"), seed, given.get("overrides")).backbone.name
    except DihalError:  # the flow itself will say what is wrong
        backbone = given.get("backbone") or "unknown backbone"
    part = (flow_run.flow_name or "").removeprefix("dihal").removeprefix("-")
    return f"{f'{part} · ' if part else ''}{profile} · {backbone} · seed {seed}"


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
        If settings, weights, disk space or the cluster will not do, or a deployment's run asks for what its operator
        has not permitted: before anything is spent.
    """
    guard_run()
    show_core_logs()
    refuse_forgotten_parameters(backbone)
    settings = load_study(profile, backbone, seed, overrides)
    guard_settings(settings, resolve_home())
    settings = pin_settings(settings, True, flow)
    if flow == "sweep" and settings.sweep_layers == "none":
        raise ConfigError("sweep_layers is 'none', which leaves a sweep nothing to train; set it to all or top:K")
    study = StudyRun(settings, resolve_home(), force=tuple(force or ()))
    preflight(settings, study.home, flow)
    begin(study, flow)
    show_plan(study, plan_study(settings, study.home, flow))
    return study


def open_finished(flow: str, name: str | None, overrides: dict[str, Any] | None, force: list[str] | None) -> StudyRun:
    """Return a finished study with the stores of corpus and replacement, ready to run the stages of `flow`.

    Raises
    ------
    ConfigError, ArtifactError
        If there is no such study, a setting is not the evaluation's, or a store is gone.
    """
    guard_run()
    show_core_logs()
    home = resolve_home()
    name, settings, result = evaluable(home, name, overrides)
    guard_settings(settings, home)
    study = StudyRun(settings, home, force=tuple(force or ()))
    study.ledger["study"] = name
    study.records = stored_records(home, result, ("corpus", "replace"))
    begin(study, flow)
    show_plan(study, plan_study(settings, home, flow, study.records))
    return study


def begin(study: StudyRun, flow: str) -> None:
    """Open the journal of a run that passed its checks, and see to its cluster and its share of the machine."""
    choose_runner(study.settings.compute)
    study.journal = RunJournal(
        study.folder,
        flow,
        stages_of(flow, study.settings),
        study.settings.model_dump(mode="json"),
        {"id": flow_run.id and str(flow_run.id), "name": flow_run.name},
    )
    told = crowded(study.settings)
    if told is not None:
        log.warning(told)
    if any(gpu_slots(study.settings, stage) for stage in stages_of(flow, study.settings)):
        ensure_limits(visible_gpus())


def refuse_forgotten_parameters(backbone: str | None) -> None:
    """Raise `ConfigError` for a run of a schedule that names no backbone: it would study another one than was meant."""
    context = FlowRunContext.get()
    if backbone is None and context is not None and context.flow_run is not None and context.flow_run.auto_scheduled:
        raise ConfigError(
            "this scheduled run names no backbone: every schedule must, and Prefect 3.8 empties a schedule's parameters "
            "when it is switched in the UI or by `prefect deployment schedule`; set them again with `dihal up "
            "--schedules NAME ...`, which also switches"
        )


def show_core_logs() -> None:
    """Let INFO lines of the project reach the UI: Prefect's extra loggers keep Python's level, which is WARNING."""
    for name in ("dihal_core", "tasks", "flows"):
        logging.getLogger(name).setLevel(logging.INFO)
