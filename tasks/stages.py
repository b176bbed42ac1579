"""One Prefect task per stage: how to run it. What it does is `STAGES[...].builder` in `dihal_core`.

Every task takes the JSON of a `StageRequest`, returns the JSON of a `StageRecord`, is cached under
the request's content key, and retries with back-off only what was caused outside us.
"""

from typing import Any

from prefect import Task, task
from prefect.runtime import task_run

from dihal_core.contract import Stage
from dihal_core.requests import StageRequest
from dihal_core.runner import ensure
from dihal_core.stages import STAGES
from tasks.artifacts import publish, study_slug
from tasks.caching import CONTENT_KEY
from tasks.links import coming_links
from tasks.progress import TaskProgress, artifact_key
from tasks.remote_stops import heeds_stops
from tasks.retries import RETRY
from tasks.workers import enter_worker


def _run_name() -> str:
    return StageRequest.from_json(task_run.parameters["request"]).label


def stage_task(stage: Stage) -> Task[Any, Any]:
    """Return the Prefect task of one stage; its run is named after stage and unit, e.g. `sweep-L07`."""

    def run(request: dict[str, Any], show: bool = True) -> dict[str, Any]:
        asked = StageRequest.from_json(request)
        enter_worker(asked)
        progress = TaskProgress(
            asked.label, artifact_key(study_slug(asked), asked.label, "progress"), foot=coming_links(asked)
        )
        with heeds_stops(asked.home):
            record = ensure(asked, progress)
        progress.end()
        if show:
            publish(asked, record)
        return record.to_json()

    run.__name__ = run.__qualname__ = stage.name
    return task(  # pyright: ignore[reportCallIssue]
        run,  # pyright: ignore[reportArgumentType]
        name=stage.name,
        description=stage.writes,
        task_run_name=_run_name,
        cache_policy=CONTENT_KEY,
        persist_result=True,
        result_serializer="json",
        tags=["dihal"],
        **RETRY,
    )


TASKS: dict[str, Task[Any, Any]] = {name: stage_task(stage) for name, stage in STAGES.items()}
