"""A flow in a terminal, whose process no worker kills, ends in the state that the server names; missed heartbeats do not end it."""

import threading
import time
from uuid import UUID

import pytest
import yaml
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Cancelling, Crashed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from tasks import cancellation
from tasks.cancellation import MISSED, RunEnded, ServerWord, end_if_stopped, heeds_server
from tasks.progress import TaskProgress
from tasks.remote_stops import heeds_stops
from tasks.stopping import stops_tasks

pytestmark = pytest.mark.usefixtures("prefect_server")

STEPS = 1500
STEP_SECONDS = 0.01
MISSED_HEARTBEATS = Crashed(message=f"{MISSED}80 seconds: the process of this run is gone.")
STATES = {
    "Cancelling": Cancelling(message="said in the UI"),
    "Cancelled": Cancelled(message="said in the UI"),
    "Failed": Failed(message="said in the UI"),
    "missed": MISSED_HEARTBEATS,
}
reached: list[int] = []
hooked: list[tuple[str, str, str]] = []


@task(name="near-work", task_run_name="{name}")
def near_work(name: str, home: str, steps: int):
    with heeds_stops(home):
        progress = TaskProgress(name, f"near-{name}", every_s=1e9)
        for step in range(steps):
            progress(step, steps, "steps")
            reached.append(step)
            time.sleep(STEP_SECONDS)
    return steps


def cancelled(flow, flow_run, state):
    hooked.append((flow.name, str(flow_run.id), state.name))


@flow(name="called-over", on_cancellation=[cancelled], task_runner=ThreadPoolTaskRunner(max_workers=4))
def called_over(home, told, steps, again=False):
    @stops_tasks
    @heeds_server
    def step():
        other = near_work.submit("beside", str(home), steps)
        future = near_work.submit("asked-for", str(home), steps)
        while len(reached) < 5:
            time.sleep(0.01)
        run = FlowRunContext.get().flow_run.id
        set_state(run, STATES[told])
        while again and last_run("called-over").state.name != "Running":
            time.sleep(0.01)
        if again:
            set_state(run, STATES[told])
        try:
            return future.result(), other.result()
        except Exception as error:
            end_if_stopped(error)
            raise

    return step()


def set_state(flow_run_id, state):
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(str(flow_run_id)), state, force=True)


def last_run(name):
    with get_client(sync_client=True) as client:
        chosen = FlowFilter(name=FlowFilterName(any_=[name]))
        return client.read_flow_runs(flow_filter=chosen, sort=FlowRunSort.START_TIME_DESC, limit=1)[0]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(cancellation, "ASK_SECONDS", 0.2)
    reached.clear()
    hooked.clear()


@pytest.mark.parametrize(
    ("told", "becomes"), [("Cancelling", "Cancelled"), ("Cancelled", "Cancelled"), ("Failed", "Failed")]
)
def test_a_run_in_a_terminal_ends_in_the_state_that_the_server_was_told(told, becomes, tmp_path):
    with pytest.raises(RunEnded, match="the server calls this flow run .*finished work is kept") as caught:
        called_over(tmp_path, told, STEPS)
    assert isinstance(caught.value, KeyboardInterrupt)  # which the command line ends with a sentence
    steps = len(reached)
    time.sleep(10 * STEP_SECONDS)
    assert len(reached) == steps < STEPS  # the task beside it has ended too
    run = last_run("called-over")
    assert run.state.name == becomes
    assert hooked == [("called-over", str(run.id), "Cancelled")] * (
        told == "Cancelling"
    )  # else whoever said it calls them
    assert not [thread for thread in threading.enumerate() if thread.name == "heeds-server"]


def test_a_living_run_whose_heartbeats_the_server_missed_says_so_and_completes(tmp_path, caplog):
    with caplog.at_level("WARNING", logger="tasks"):
        assert called_over(tmp_path, "missed", 250, again=True) == (250, 250)
    assert caplog.text.count("missed the heartbeats of this run and called it Crashed; it is Running again") == 2
    assert last_run("called-over").state.name == "Completed"


def test_a_worker_believes_in_missed_heartbeats_when_nobody_contradicts(tmp_path):
    called_over(tmp_path, "missed", 150)
    run = last_run("called-over")
    word = ServerWord(run.id, f"{run.id}-1")
    set_state(run.id, MISSED_HEARTBEATS)
    assert not word.is_over()
    assert not word.is_over()  # too soon after
    time.sleep(cancellation.BELIEVED_AFTER * cancellation.ASK_SECONDS)
    assert word.is_over()
    set_state(run.id, Crashed(message="Execution was aborted by a termination signal."))
    assert ServerWord(run.id, f"{run.id}-1").is_over()
    set_state(run.id, MISSED_HEARTBEATS)
    assert ServerWord(run.id, f"{run.id}-0").is_over_for_living(threading.Event())  # they were those of a later attempt
    assert last_run("called-over").state.name == "Crashed"


def test_a_server_that_does_not_answer_has_ended_nothing(monkeypatch):
    monkeypatch.setattr(cancellation, "get_client", lambda sync_client: (_ for _ in ()).throw(ConnectionError("down")))
    word = ServerWord(UUID(int=1), "run-1")
    assert not word.is_over()
    assert not word.is_over_for_living(threading.Event())


def test_the_automation_says_what_a_living_run_contradicts():
    with open("deployments/automations.yaml", encoding="utf-8") as file:
        (automation,) = [a for a in yaml.safe_load(file)["automations"] if a["name"] == "dihal-dead-runs"]
    assert automation["actions"][0]["message"].startswith(MISSED)


def test_a_run_that_has_ended_is_not_called_running_again(tmp_path):
    called_over(tmp_path, "missed", 150)
    run, ended = last_run("called-over"), threading.Event()
    set_state(run.id, MISSED_HEARTBEATS)
    ended.set()
    assert not ServerWord(run.id, f"{run.id}-{run.run_count}").is_over_for_living(ended)
    assert last_run("called-over").state.name == "Crashed"


def test_a_run_whose_runner_calls_the_hooks_does_not_call_them_itself(tmp_path, monkeypatch):
    monkeypatch.setenv(cancellation.HOOKS_HERE, "false")
    with pytest.raises(RunEnded):
        called_over(tmp_path, "Cancelling", STEPS)
    assert hooked == []


def test_outside_a_flow_nothing_is_watched():
    assert heeds_server(lambda: [t.name for t in threading.enumerate() if t.name == "heeds-server"])() == []
