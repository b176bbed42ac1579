"""What the server says of a flow run ends it where nobody kills its process: cancelled from the UI, or called dead.

A Prefect worker kills the process of a run that is cancelled. A `dihal study` in a terminal has no worker, one whose
worker died has none any more, and a task on a cluster elsewhere is reached by neither: they ask the server now and
then. The tasks then end at their next progress report, and the flow ends in the state that the server names.

One word of the server is not taken: a run whose heartbeats it missed (it was down, the machine slept) is called
Crashed by the automation `dihal-dead-runs`. Its process, which lives, says Running again.
"""

import contextlib
import contextvars
import functools
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.exceptions import Abort
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled, Running

from tasks.stopping import TaskStopped, current_run, note_end

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

ASK_SECONDS = 30.0
"""Between two questions to the server."""
BELIEVED_AFTER = 2.5
"""Times `ASK_SECONDS` for which a worker must hear of missed heartbeats: the flow, if it lives, has contradicted by then."""
JOIN_SECONDS = 5.0
HOOKS_HERE = "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS"
"""Of Prefect: "false" in runs whose hooks its runner calls."""
MISSED = "No heartbeat for "
"""How the message of the automation `dihal-dead-runs` begins."""


class RunEnded(Abort, KeyboardInterrupt):
    """Ends the flow in `state`, which the server has already: no other state is proposed.

    Prefect's engine takes it for an `Abort`; for whoever called the flow in a terminal it is what Ctrl-C is.
    """

    def __init__(self, message: str, state: State[object] | None):
        super().__init__(message)
        self.state = state


class ServerWord:
    """The server's word on one attempt of a flow run.

    Parameters
    ----------
    flow_run_id : UUID
        The flow run.
    run : str
        The attempt, as `current_run` names it.
    """

    def __init__(self, flow_run_id: UUID, run: str):
        self.flow_run_id, self.run = flow_run_id, run
        self._asked, self._missed_since, self._contradicted = time.monotonic(), math.inf, 0

    def is_due(self) -> bool:
        """Say whether `ASK_SECONDS` have gone by since the server was asked."""
        return time.monotonic() - self._asked >= ASK_SECONDS

    def is_over(self) -> bool:
        """Ask whether the attempt is over; a server that does not answer has not said so.

        For missed heartbeats it must say so for `BELIEVED_AFTER` questions' time.
        """
        found = self._ask()
        if found is None or not _is_missed(found):
            self._missed_since = math.inf
            return found is not None
        self._missed_since = min(self._missed_since, self._asked)
        return self._asked - self._missed_since >= BELIEVED_AFTER * ASK_SECONDS

    def is_over_for_living(self, ended: threading.Event) -> bool:
        """Ask the same in the process that works on the attempt: there missed heartbeats are contradicted until `ended`."""
        found = self._ask()
        # Each contradiction counts as a run on the server: a higher count is another process's attempt.
        if found is None or not _is_missed(found) or found.run_count > _attempt(self.run) + self._contradicted:
            return found is not None
        try:
            with _client() as client:
                if not ended.is_set():
                    client.set_flow_run_state(self.flow_run_id, Running(message=_lives(self.run)), force=True)
                    self._contradicted += 1
            log.warning("the server missed the heartbeats of this run and called it Crashed; it is Running again")
        except Exception as error:
            log.debug("the server was not told that this run lives (%s: %s)", type(error).__name__, error)
        return False

    def _ask(self) -> FlowRun | None:
        """Return the flow run if the server calls the attempt over, else None."""
        self._asked = time.monotonic()
        try:
            with _client() as client:
                found = client.read_flow_run(self.flow_run_id)
        except Exception as error:
            log.debug("the server does not say how the flow run is (%s: %s)", type(error).__name__, error)
            return None
        return found if _is_over(found, self.run) else None


@contextlib.contextmanager
def _client(retries: int = 0) -> Iterator[SyncPrefectClient]:
    """Give a client that does not wait long for an absent server, as the work's own requests do."""
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: retries}), get_client(sync_client=True) as client:
        yield client


_words: dict[str, ServerWord] = {}
"""Of the flow runs of this process: stages that take less than `ASK_SECONDS` each share one clock."""


def heeds_server(step: Callable[P, R]) -> Callable[P, R]:
    """Let the tasks that `step` runs in the flow's own process end once the server calls the flow run over."""

    @functools.wraps(step)
    def wrapped(*arguments: P.args, **options: P.kwargs) -> R:
        context, run = FlowRunContext.get(), current_run()
        if context is None or context.flow_run is None or run is None:
            return step(*arguments, **options)
        word = _words.setdefault(run, ServerWord(context.flow_run.id, run))
        ended = threading.Event()
        thread = threading.Thread(
            target=contextvars.copy_context().run,  # it holds the address of the server
            args=(_watch, word, ended),
            name="heeds-server",
            daemon=True,
        )
        thread.start()
        try:
            return step(*arguments, **options)
        finally:
            ended.set()
            thread.join(JOIN_SECONDS)  # what it says of a run that has ended would be untrue

    return wrapped


def _watch(word: ServerWord, ended: threading.Event) -> None:
    while not ended.wait(min(1.0, ASK_SECONDS)):
        if word.is_due() and word.is_over_for_living(ended):
            log.warning("the server says that this flow run has ended; its tasks stop at their next report")
            note_end(word.run)
            return


def end_if_stopped(error: Exception) -> None:
    """End the flow if `error` is a task's that ended because the server says that this run has; else do nothing.

    A run that is Cancelling is Cancelled then: its process is the one that knows that nothing of it runs any more.

    Raises
    ------
    RunEnded
        With the state the server has now; None if it does not answer.
    """
    context, run = FlowRunContext.get(), current_run()
    if not isinstance(error, TaskStopped) or run is None or context is None or context.flow_run is None:
        return
    flow_run_id = context.flow_run.id
    state: State[object] | None = None
    try:
        with _client(retries=2) as client:
            found = client.read_flow_run(flow_run_id)
            if not _is_over(found, run):  # nobody asked for it any more: an ordinary failure
                return
            state = found.state
            if state is not None and state.is_cancelling():
                message = "Flow run was cancelled; its tasks have ended, what they had committed is kept."
                state = client.set_flow_run_state(flow_run_id, Cancelled(message=message), force=True).state
                _call_hooks(context.flow, found, state)
    except Exception as failure:
        log.warning("the server was not told that this run ends (%s: %s)", type(failure).__name__, failure)
    raise RunEnded(f"the server calls this flow run {state.name if state else 'ended'}: {error}", state) from error


def _call_hooks(flow: Flow[Any, Any] | None, found: FlowRun, state: State[Any] | None) -> None:
    """Call the hooks of a cancelled run, unless a runner will, which says so in the environment of its runs."""
    if flow is None or state is None or os.environ.get(HOOKS_HERE, "true").lower() == "false":
        return
    for hook in flow.on_cancellation_hooks:
        try:
            hook(flow, found, state)
        except Exception as error:
            log.warning("a hook of the cancelled run failed (%s: %s)", type(error).__name__, error)


def _is_over(found: FlowRun, run: str) -> bool:
    """Say whether the attempt `run` of a flow run is over: that state is final or Cancelling, or a later one has begun."""
    state = found.state
    if state is not None and state.message == _lives(run):
        return False
    return found.run_count > _attempt(run) or (state is not None and (state.is_final() or state.is_cancelling()))


def _is_missed(found: FlowRun) -> bool:
    return found.state is not None and found.state.is_crashed() and (found.state.message or "").startswith(MISSED)


def _lives(run: str) -> str:
    return f"The process of attempt {_attempt(run)} lives: the server had missed its heartbeats."


def _attempt(run: str) -> int:
    return int(run.rpartition("-")[2])
