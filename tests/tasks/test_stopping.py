"""An interruption in the flow's thread ends the work in its task threads, and only that run's."""

import threading
import time

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.task_runners import ThreadPoolTaskRunner

from tasks.progress import TaskProgress
from tasks.stopping import stops_tasks

pytestmark = pytest.mark.usefixtures("prefect_server")

STEPS = 4000
STEP_SECONDS = 0.01
reached: list[int] = []


@task(name="long-work", task_run_name="{name}")
def long_work(name: str, steps: int):
    progress = TaskProgress(name, f"stopping-{name}", every_s=1e9)
    for step in range(steps):
        progress(step, steps, "steps")
        reached.append(step)
        time.sleep(STEP_SECONDS)
    return steps


@stops_tasks
def interrupted_while_waiting(steps: int):
    long_work.submit("work", steps)
    while len(reached) < 5:
        time.sleep(0.01)
    raise KeyboardInterrupt


@flow(name="interrupted", task_runner=ThreadPoolTaskRunner(max_workers=4))
def interrupted(steps: int):
    interrupted_while_waiting(steps)


@flow(name="undisturbed", task_runner=ThreadPoolTaskRunner(max_workers=4))
def undisturbed(steps: int):
    return long_work.submit("other", steps).result()


def test_an_interrupted_flow_ends_its_tasks_at_their_next_report_and_no_other_flow():
    reached.clear()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted(STEPS, return_state=True)
    assert time.monotonic() - began < STEPS * STEP_SECONDS / 2
    steps = len(reached)
    time.sleep(10 * STEP_SECONDS)
    assert len(reached) == steps < STEPS
    assert not [thread for thread in threading.enumerate() if "long-work" in thread.name]
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=["interrupted"])))
        assert run.state_name == "Crashed"
    assert undisturbed(3) == 3
