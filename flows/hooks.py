"""What happens when a flow run ends badly: its lost task runs are marked, and whoever asked for it is told.

Prefect leaves task runs Running for good when their process was killed. The hooks of every flow mark
them Crashed; `mark_lost_tasks` does the same at the start of the next run for runs whose hooks never
ran (process and worker killed together). Runs of flows that are not ours are left alone.

Nobody is told anything unless `DIHAL_NOTIFY_BLOCK`, or the Prefect variable `dihal_notify_block`,
names a saved notification block, e.g. `slack-webhook/ops`. Hook arguments are called `flow`,
`flow_run` and `state`: for killed and cancelled runs Prefect passes them by name.
"""

import logging
import math
import os
import time
from typing import Any
from uuid import UUID

from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, PREFECT_UI_URL, temporary_settings
from prefect.states import Crashed
from prefect.variables import Variable

from flows.ours import our_flows

log = logging.getLogger(__name__)

NOTIFY_ENVIRONMENT = "DIHAL_NOTIFY_BLOCK"
NOTIFY_VARIABLE = "dihal_notify_block"
UNFINISHED = [StateType.RUNNING, StateType.PENDING]
ENDED = [StateType.CRASHED, StateType.CANCELLED, StateType.FAILED]
LOST = "the process that ran this task has ended; what it had committed is kept and the next run goes on from there"
MOST_AT_ONCE = 200
"""Task runs the server gives at a time."""
PATIENCE_SECONDS = 15.0
"""What the start of a run spends on marking task runs of dead processes."""


def notification_block() -> str | None:
    """Return the name of the block that tells people, or None: then nobody is told."""
    named = os.environ.get(NOTIFY_ENVIRONMENT)
    if named is not None:  # set but empty: off here, whatever the server's variable says
        return named or None
    value = Variable.get(NOTIFY_VARIABLE)
    return value if isinstance(value, str) and value else None


def tell(flow_run: FlowRun, state: State[Any]) -> bool:
    """Send what happened through the configured block; return False if there is none.

    Raises
    ------
    TypeError
        If the block cannot send notifications.
    """
    name = notification_block()
    if name is None:
        return False
    block = Block.load(name)
    if not isinstance(block, NotificationBlock):
        raise TypeError(f"block {name!r} is a {type(block).__name__}, which sends no notifications; name another one")
    ui = PREFECT_UI_URL.value()
    page = f"\n{ui}/runs/flow-run/{flow_run.id}" if ui else ""
    body = f"{state.message or 'no message'}\nResume: prefect flow-run retry {flow_run.id}{page}"
    block.notify(body, f"DiHAL: {flow_run.name} is {state.name}")  # type: ignore[unused-coroutine]
    return True


def mark_lost_tasks(client: SyncPrefectClient, flow_run_id: UUID | None = None, until: float = math.inf) -> int:
    """Set task runs that nobody runs any more to Crashed and return how many there were.

    Parameters
    ----------
    client : SyncPrefectClient
        Of the server.
    flow_run_id : UUID, optional
        The flow run they belong to; None: all runs of our flows that have ended badly.
    until : float
        Moment (`time.monotonic()`) at which to leave the rest to the next start.
    """
    chosen = (
        FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
        if flow_run_id is not None
        else FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=ENDED)))
    )
    unfinished = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=UNFINISHED)))
    marked: set[UUID] = set()
    while time.monotonic() < until:  # marked ones leave the filter: the first page always holds those that are left
        page = client.read_task_runs(
            flow_filter=our_flows() if flow_run_id is None else None,
            flow_run_filter=chosen,
            task_run_filter=unfinished,
            limit=MOST_AT_ONCE,
        )
        found = [run.id for run in page if run.id not in marked]
        for run in found:
            if time.monotonic() >= until:
                return len(marked)
            client.set_task_run_state(run, Crashed(message=LOST), force=True)
            marked.add(run)
        if not found or len(page) < MOST_AT_ONCE:
            break
    return len(marked)


def mark_earlier_lost_tasks(starting: str | None = None) -> None:
    """Mark the task runs of earlier attempts of the run that is `starting`, then those of all runs that ended badly.

    A server that is busy or silent costs a warning and at most about three times `PATIENCE_SECONDS`.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}),
            get_client(
                sync_client=True, httpx_settings={"timeout": (PATIENCE_SECONDS / 5, *[PATIENCE_SECONDS] * 3)}
            ) as client,
        ):
            marked = mark_lost_tasks(client, UUID(starting), until) if starting is not None else 0
            marked += mark_lost_tasks(client, until=until)
    except Exception as error:
        log.warning("could not look for task runs of dead processes (%s: %s)", type(error).__name__, error)
        return
    if marked:
        log.info("%d task runs of earlier, dead runs marked Crashed", marked)
    if time.monotonic() >= until:
        log.warning(
            "not all task runs of dead processes could be marked in %g s; the next start goes on", PATIENCE_SECONDS
        )


def ended_badly(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Hook of failed, crashed and cancelled runs."""
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 2}), get_client(sync_client=True) as client:
            mark_lost_tasks(client, flow_run.id)
    except Exception as error:
        log.warning("task runs of %s keep their last state (%s: %s)", flow_run.name, type(error).__name__, error)
    ended_partly(flow, flow_run, state)


def ended_partly(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Tell whoever asked, unless the run completed in full. A failing notification never changes a run."""
    if state.name == "Completed":
        return
    try:
        tell(flow_run, state)
    except Exception as error:
        log.warning("nobody was told that %s is %s (%s: %s)", flow_run.name, state.name, type(error).__name__, error)


HOOKS: dict[str, Any] = {
    "on_completion": [ended_partly],
    "on_failure": [ended_badly],
    "on_crashed": [ended_badly],
    "on_cancellation": [ended_badly],
}
"""Keyword arguments of every flow."""
