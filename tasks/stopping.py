"""Ctrl-C, SIGTERM and cancellation reach the threads that do the work.

Python delivers a signal to the main thread only, and Prefect waits for its task threads before a flow
run may end: without this a cancelled training would run to its end first. The flow's thread notes that
its run was asked to stop; every task looks at each of its progress reports (a training step, a batch,
a subsample) and ends there, as a crash that says why. What was committed stays. How the tasks on a cluster
come to know of it: `tasks.remote_stops`; how a flow does that is cancelled where no signal comes: `tasks.cancellation`.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from prefect.runtime import flow_run

from dihal_core.progress import StopRequested

P = ParamSpec("P")
R = TypeVar("R")


class TaskStopped(Exception):
    """A task has ended because its run was asked to stop: `StopRequested` for the way to a flow that waits for it.

    An `Exception`, because Dask's client does not come back from an end that is none.
    """


_stopping: set[str] = set()
"""Attempts of flow runs, as `current_run` names them, that were asked to stop."""
_ended: set[str] = set()
"""Those of them that the server calls over: their flow's thread has heard of nothing and waits."""


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
                note_stop(run)
            raise

    return wrapped


def current_run() -> str | None:
    """Return the flow run that this thread works for, `<id>-<attempt>`, or None: a retry is no longer asked to stop."""
    return f"{flow_run.id}-{flow_run.run_count}" if flow_run.id else None


def note_stop(run: str) -> None:
    """Let the tasks of `run` in this process end at their next report."""
    _stopping.add(run)


def note_end(run: str) -> None:
    """Let the tasks of `run` in this process end at their next report, because the server calls that run over."""
    _ended.add(run)
    note_stop(run)


def has_ended(run: str) -> bool:
    """Say whether the server was heard to call `run` over."""
    return run in _ended


def end_if_asked(run: str | None) -> None:
    """Raise `StopRequested` if that run was asked to stop: the state of the task is then Crashed."""
    if run in _stopping:
        raise StopRequested("its flow run was interrupted; finished work is kept and the next run goes on from it")
