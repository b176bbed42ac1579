"""A mark in the home, or the server's word, ends tasks that no signal of the flow's process reaches."""

import os
import socket
import threading
import time
from types import SimpleNamespace
from uuid import UUID

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Cancelling, Failed, Running
from prefect.task_runners import ThreadPoolTaskRunner

from dihal_core.errors import NumericsError
from dihal_core.profiles import load_study
from dihal_core.remote import failures
from dihal_core.stops import ask_to_stop, forget_stops, is_asked_to_stop
from tasks import cancellation, remote_stops
from tasks.cancellation import RunEnded, end_if_stopped
from tasks.progress import TaskProgress
from tasks.remote_stops import heeds_stops, stops_workers, tell_workers
from tasks.stopping import TaskStopped, current_run

STEPS = 1500
STEP_SECONDS = 0.01
STATES = {"Cancelling": Cancelling, "Cancelled": Cancelled, "Failed": Failed, "Running": Running}
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
def told_by_the_server(home, state):
    run = FlowRunContext.get().flow_run.id
    future = far_work.submit("asked", str(home))
    while len(reached) < 5:
        time.sleep(0.01)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(str(run)), STATES[state](message="said by the server"), force=True)
    try:
        future.result(timeout=15)
    except TaskStopped as error:
        end_if_stopped(error)
        raise


@flow(name="fails-while-another-task-runs", task_runner=ThreadPoolTaskRunner(max_workers=4))
def fails_while_another_task_runs(home):
    study = SimpleNamespace(settings=load_study("smoke", overrides={"compute.runner": "dask"}), home=home, futures={})

    @stops_workers
    def step(study):
        study.futures["work"] = [far_work.submit("told", str(home))]
        while len(reached) < 5:
            time.sleep(0.01)
        raise NumericsError("loss is inf")

    step(study)


def last_run(name):
    with get_client(sync_client=True) as client:
        chosen = FlowFilter(name=FlowFilterName(any_=[name]))
        return client.read_flow_runs(flow_filter=chosen, sort=FlowRunSort.START_TIME_DESC, limit=1)[0]


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
@pytest.mark.parametrize(
    ("told", "becomes"),
    [
        ("Cancelling", "Cancelled"),
        ("Cancelled", "Cancelled"),
        ("Failed", "Failed"),
        ("Running", "Running"),  # a retry has begun it anew
    ],
)
def test_a_run_that_the_server_says_is_over_ends_its_task_without_a_mark_and_keeps_a_true_state(
    told, becomes, tmp_path, monkeypatch
):
    monkeypatch.setattr(remote_stops, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(cancellation, "ASK_SECONDS", 0.1)
    reached.clear()
    with pytest.raises(RunEnded, match="the server calls this flow run .*finished work is kept") as caught:
        told_by_the_server(tmp_path, told)
    assert isinstance(caught.value, KeyboardInterrupt)  # which the command line ends with a sentence
    assert 5 <= len(reached) < STEPS / 2
    assert not (tmp_path / "stops").exists()
    assert last_run("told-by-the-server").state.name == becomes


@pytest.mark.usefixtures("prefect_server")
def test_a_flow_that_fails_stops_its_other_tasks_on_the_cluster(tmp_path, monkeypatch):
    monkeypatch.setattr(remote_stops, "LOOK_SECONDS", 0.05)
    reached.clear()
    began = time.monotonic()
    with pytest.raises(NumericsError, match="loss is inf"):
        fails_while_another_task_runs(tmp_path)
    assert len(reached) < STEPS / 2
    assert time.monotonic() - began < STEPS * STEP_SECONDS / 2
    assert last_run("fails-while-another-task-runs").state.name == "Failed"


def test_a_mark_is_put_first_and_old_ones_that_vanish_meanwhile_do_not_hinder_it(tmp_path):
    (tmp_path / "stops").mkdir()
    (tmp_path / "stops" / "gone.json").symlink_to(tmp_path / "removed-by-another-flow")
    tell_workers(tmp_path, "run-1", [])
    assert is_asked_to_stop(tmp_path, "run-1")
    assert forget_stops(tmp_path, older_than_s=-60) == 1


def test_a_home_that_never_answers_does_not_eat_the_time_of_the_tasks(tmp_path, monkeypatch, caplog):
    from dihal_core.store import resolve_home

    monkeypatch.setattr(failures, "BRIEF_ANSWER_SECONDS", 0.5)
    monkeypatch.setenv("DIHAL_CACHE", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "unused")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as silent:  # takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        tell_workers(resolve_home("s3://dihal/silent"), "run-1", [], patience_s=10)
        assert time.monotonic() - began < 8
    assert "are not told to stop; they ask the server now and then" in caplog.text


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
