"""Stop requests reach tasks on the workers of a cluster, which no signal of the flow's process reaches.

The flow leaves a mark in the home (`dihal_core.stops`) and waits a moment for its tasks. On a worker a thread
looks for that mark while a task runs, and now and then asks the server (`tasks.cancellation`): a flow that was killed
leaves no mark, but its run is called Crashed once its heartbeats stop. The task then ends at its next progress
report, as it would in the flow's own process.
"""

import contextlib
import contextvars
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture

from dihal_core.errors import DihalError
from dihal_core.progress import StopRequested
from dihal_core.remote.address import remote_address
from dihal_core.remote.failures import brief
from dihal_core.remote.link import home_path
from dihal_core.stops import ask_to_stop, forget_stops, is_asked_to_stop
from tasks.cancellation import ServerWord
from tasks.stopping import TaskStopped, current_run, has_ended, note_stop

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

LOOK_SECONDS = 1.0
REMOTE_LOOK_SECONDS = 10.0
"""Between two looks at a home on an object store: each is a request."""
WAIT_SECONDS = 20.0
"""How long a flow that ends waits for its tasks to save what they have: less than the 30 s after which Prefect kills."""
MARK_ATTEMPTS = 2
"""Brief ones: a home that does not answer must not eat the time in which tasks save their work."""


def stops_workers(step: Callable[P, R]) -> Callable[P, R]:
    """Let an interruption or a failure of `step` of a `StudyRun` stop the tasks it sent to a cluster."""

    @functools.wraps(step)
    def wrapped(*arguments: P.args, **options: P.kwargs) -> R:
        study = arguments[0]
        try:
            return step(*arguments, **options)
        except BaseException:
            run = current_run()
            if study.settings.compute.runner != "threads" and run is not None:  # type: ignore[attr-defined]
                futures = [future for made in study.futures.values() for future in made]  # type: ignore[attr-defined]
                tell_workers(study.home, run, futures)  # type: ignore[attr-defined]
            raise

    return wrapped


def tell_workers(home: Path, run: str, futures: list[PrefectFuture[object]], patience_s: float = WAIT_SECONDS) -> None:
    """Mark `run` as asked to stop, and wait until its tasks have ended or `patience_s` seconds are over."""
    deadline = time.monotonic() + patience_s
    if not _mark(home, run, deadline):
        return
    landed = threading.Semaphore(0)
    for future in futures:  # told, not waited for: a cluster whose worker died may never answer
        future.add_done_callback(lambda _: landed.release())
    for _ in futures:
        if not landed.acquire(timeout=max(0.0, deadline - time.monotonic())):
            log.warning("a task on the cluster has not ended after %.0f s; it may still be saving", patience_s)
            return
    with contextlib.suppress(DihalError, OSError), brief():  # old marks harm nobody; the next run may remove them
        forget_stops(home)


def _mark(home: Path, run: str, deadline: float) -> bool:
    """Put the mark, asking a remote home briefly; say whether it is there."""
    for attempt in range(1, MARK_ATTEMPTS + 1):
        try:
            with brief():
                ask_to_stop(home, run)
            return True
        except (DihalError, OSError) as error:
            if attempt == MARK_ATTEMPTS or time.monotonic() >= deadline:
                log.warning("workers of the cluster are not told to stop; they ask the server now and then (%s)", error)
    return False


@contextlib.contextmanager
def heeds_stops(home: str) -> Iterator[None]:
    """Let the work of a task end as `TaskStopped` where the flow's thread waits for it and knows of no end.

    On a worker of a cluster a thread looks whether the flow run was asked to stop; in the flow's own process
    `tasks.cancellation` does, and an end by a signal, which the flow's thread has too, goes on as it is.

    Parameters
    ----------
    home : str
        Path or address of the home, as `home_uri` gives it.

    Raises
    ------
    TaskStopped
        If it was, and the block has ended at a report.
    """
    context, run = FlowRunContext.get(), current_run()
    if context is None or context.flow_run is None or run is None:
        yield
        return
    if not context.detached:
        try:
            yield
        except StopRequested as stop:
            if has_ended(run):
                raise TaskStopped(str(stop)) from stop
            raise
        return
    ended = threading.Event()
    thread = threading.Thread(
        target=contextvars.copy_context().run,  # it holds the address of the server
        args=(_watch, home_path(home), ServerWord(context.flow_run.id, run), ended),
        name="heeds-stops",
        daemon=True,
    )
    thread.start()
    try:
        yield
    except StopRequested as stop:
        raise TaskStopped(str(stop)) from stop
    finally:
        ended.set()


def _watch(home: Path, word: ServerWord, ended: threading.Event) -> None:
    every_s = LOOK_SECONDS if remote_address(home) is None else REMOTE_LOOK_SECONDS
    while not ended.wait(every_s):
        if _marked(home, word.run):
            note_stop(word.run)
            return
        if word.is_due() and word.is_over():
            log.warning("the server says that the flow run of this task has ended; it stops at its next report")
            note_stop(word.run)
            return


def _marked(home: Path, run: str) -> bool:
    try:
        with brief():
            return is_asked_to_stop(home, run)
    except (DihalError, OSError) as error:  # the work does not hang on it; the next look may succeed
        log.debug("no look at the stop marks (%s)", error)
        return False
