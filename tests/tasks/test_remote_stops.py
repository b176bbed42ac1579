"""A mark in the home, or the server's word, ends tasks that no signal of the flow's process reaches."""

import os
import threading
import time
from uuid import UUID

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.states import Cancelling
from prefect.task_runners import ThreadPoolTaskRunner

from dihal_core.progress import StopRequested
from dihal_core.stops import ask_to_stop, forget_stops, is_asked_to_stop
from tasks import remote_stops
from tasks.progress import TaskProgress
from tasks.remote_stops import heeds_stops, tell_workers
from tasks.stopping import current_run

STEPS = 1500
STEP_SECONDS = 0.01
reached: list[int] = []


@task(name="far-work", task_run_name="{name}")
def far_work(name: str, home: str, detached: bool = True):
    context = FlowRunContext.get().model_copy(update={"detached": detached})  # as Prefect marks it on a worker
    with context, heeds_stops(home):
        progress = TaskProgress(name, f"far-{name}", every_s=1e9)
        for step in range(STEPS):
            progress(step, STEPS, "steps")
            reached.append(step)
            time.sleep(STEP_SECONDS)


@flow(name="told-by-a-mark", task_runner=ThreadPoolTaskRunner(max_workers=4))
def told_by_a_mark(home):
    future = far_work.submit("told", str(home))
    while len(reached) < 5:
        time.sleep(0.01)
    began = time.monotonic()
    tell_workers(home, current_run(), [future], patience_s=15)
    return time.monotonic() - began, current_run()


@flow(name="told-by-the-server", task_runner=ThreadPoolTaskRunner(max_workers=4))
def told_by_the_server(home):
    run = FlowRunContext.get().flow_run.id
    future = far_work.submit("asked", str(home))
    while len(reached) < 5:
        time.sleep(0.01)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(str(run)), Cancelling(), force=True)
    with pytest.raises(StopRequested):
        future.result(timeout=15)


@pytest.mark.usefixtures("prefect_server")
def test_a_mark_ends_a_task_on_a_worker_at_its_next_report(tmp_path, monkeypatch):
    monkeypatch.setattr(remote_stops, "LOOK_SECONDS", 0.05)
    reached.clear()
    seconds, run = told_by_a_mark(tmp_path)
    assert len(reached) < STEPS / 2
    assert seconds < STEPS * STEP_SECONDS / 2
    assert is_asked_to_stop(tmp_path, run)
    assert not is_asked_to_stop(tmp_path, f"{run.rsplit('-', 1)[0]}-2")  # a retry is another attempt
    assert not [thread for thread in threading.enumerate() if thread.name == "heeds-stops"]


@pytest.mark.usefixtures("prefect_server")
def test_a_run_that_the_server_calls_cancelled_ends_its_task_without_a_mark(tmp_path, monkeypatch):
    monkeypatch.setattr(remote_stops, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(remote_stops, "ASK_SECONDS", 0.1)
    reached.clear()
    told_by_the_server(tmp_path, return_state=True)
    assert 5 <= len(reached) < STEPS / 2
    assert not (tmp_path / "stops").exists()


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_marks_are_seen_by_every_machine_of_a_home_and_forgotten_after_a_week(kind, tmp_path, monkeypatch):
    from dihal_core.remote import home as remote
    from dihal_core.store import resolve_home

    monkeypatch.setenv("DIHAL_CACHE", str(tmp_path / "first"))
    address = str(tmp_path / "runs") if kind == "local" else f"memory://stops-{os.getpid()}"
    home = resolve_home(address)
    assert not is_asked_to_stop(home, "run-1")
    ask_to_stop(home, "run-1")
    monkeypatch.setenv("DIHAL_CACHE", str(tmp_path / "second"))
    remote._remote_home.cache_clear()
    other = resolve_home(address)
    assert is_asked_to_stop(other, "run-1")
    assert forget_stops(other) == 0
    assert is_asked_to_stop(other, "run-1")
    assert forget_stops(other, older_than_s=-60) == 1
    assert not is_asked_to_stop(home, "run-1")
