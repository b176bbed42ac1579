"""Ctrl-C, SIGTERM and cancellation reach the threads that do the work.

Python delivers a signal to the main thread only, and Prefect waits for its task threads before a flow
run may end: without this a cancelled training would run to its end first. The flow's thread notes that
its run was asked to stop; every task looks at each of its progress reports (a training step, a batch,
a subsample) and ends there, as a crash that says why. What was committed stays.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from prefect.runtime import flow_run

from dihal_core.progress import StopRequested

P = ParamSpec("P")
R = TypeVar("R")

_stopping: set[str] = set()
"""Flow runs of this process that were asked to stop."""


def stops_tasks(step: Callable[P, R]) -> Callable[P, R]:
    """Let an interruption of `step`, called in the flow's thread, stop the tasks of that flow run."""

    @functools.wraps(step)
    def wrapped(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            return step(*arguments, **options)
        except Exception:
            raise
        except BaseException:  # KeyboardInterrupt, Prefect's TerminationSignal
            if (run := current_run()) is not None:
                _stopping.add(run)
            raise

    return wrapped


def current_run() -> str | None:
    """Return the id of the flow run that this thread works for, or None."""
    return flow_run.id


def end_if_asked(flow_run_id: str | None) -> None:
    """Raise `StopRequested` if that flow run was asked to stop: the state of the task is then Crashed."""
    if flow_run_id in _stopping:
        raise StopRequested("its flow run was interrupted; finished work is kept and the next run goes on from it")
