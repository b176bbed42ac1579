"""A dump on a cluster: the stage's own task makes the store, helper tasks on other workers make units of it.

On threads `compute.dump_workers` are processes that the stage starts itself; on a cluster the workers are
there already, so they are asked instead. A helper leaves when nothing is left to make.

Helpers need a home that all workers have as one folder: whether a dump is open is told by a lock in it. A home on an
object store has a working copy per machine, so there the stage's own task makes the dump alone.
"""

import logging
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.runtime import task_run

from dihal_core.config import StudySettings
from dihal_core.remote.address import is_address
from dihal_core.requests import StageRequest
from tasks.workers import enter_worker

log = logging.getLogger(__name__)

WAIT_SECONDS = 120.0
"""How long to wait, when the dump is made, for a helper to say that it has left."""


def _run_name() -> str:
    return f"activations-helper-{task_run.parameters['number']}"


@task(
    name="activations-helper",
    description="makes units of the dump that the task `activations` makes",
    task_run_name=_run_name,
    cache_policy=NO_CACHE,
    persist_result=False,
    tags=["dihal"],  # not `gpu`: a helper that took the last slot would wait for the dump, which waits for a slot
)
def help_dump(request: dict[str, Any], number: int) -> dict[str, Any]:
    """Make units of the dump of `request` until none is left; return how fast."""
    from dihal_core.activations.helping import join_dump

    asked = StageRequest.from_json(request)
    enter_worker(asked)
    return {"tokens_per_second": join_dump(asked), "number": number}


class DumpHelp:
    """Helper tasks of the dump of one study, where its settings ask for any."""

    def __init__(self, settings: StudySettings):
        compute = settings.compute
        self.count = 0 if compute.runner == "threads" else min(compute.dump_workers, compute.runner_workers) - 1
        self._futures: list[PrefectFuture[Any]] = []

    def offer(self, request: StageRequest) -> None:
        """Submit the helpers, after the task that makes the store of `request`; other stages, and remote homes, have none."""
        if request.stage != "activations":
            return
        if is_address(request.home):
            if self.count > 0:
                log.info(
                    "%s: one worker makes this dump, helpers need a home that is one folder for all", request.label
                )
        else:
            self._futures = [help_dump.submit(request.to_json(), number) for number in range(1, self.count + 1)]

    def wait(self) -> None:
        """Wait until all helpers have ended; one that failed is named, its units were made by the others."""
        for number, future in enumerate(self._futures, start=1):
            try:
                future.result(timeout=WAIT_SECONDS)
            except Exception as error:
                log.warning("dump helper %d stopped: %s; its units were made by the others", number, error)
        self._futures = []
