"""Hooks against a real server and a real receiver of notifications."""

import time

import pytest
from prefect import flow, task
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import StateType
from prefect.states import Completed, Crashed, Running
from prefect.variables import Variable

from flows import hooks
from flows.ablate import ablate
from flows.compare import compare
from flows.evaluation import evaluate
from flows.locate import locate
from flows.replace import replace
from flows.sensitivity import sensitivity
from flows.study import full_study
from flows.sweep import sweep
from flows.watch import watch

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def receiver(receiving):
    with receiving() as made:
        yield made


@pytest.fixture
def block(receiver, prefect_server):
    body = {"subject": "{{subject}}", "body": "{{body}}"}
    CustomWebhookNotificationBlock(name="ops", url=receiver.url, json_data=body).save("dihal-test", overwrite=True)
    return "custom-webhook/dihal-test"


@flow(name="ends-badly", **hooks.HOOKS)
def ends_badly(how: str):
    if how == "fail":
        raise ValueError("layer 3 diverged")
    if how == "partial":
        return Completed(name="Partial", message="layers L02 are missing")
    return None


def test_every_flow_has_the_hooks():
    for study in (ablate, compare, evaluate, full_study, locate, replace, sensitivity, sweep, watch):
        for name, functions in hooks.HOOKS.items():
            assert getattr(study, f"{name}_hooks") == functions


def test_nobody_is_told_unless_a_block_is_named(receiver, block, monkeypatch):
    monkeypatch.delenv(hooks.NOTIFY_ENVIRONMENT, raising=False)
    ends_badly("fail", return_state=True)
    assert receiver.messages == []


def test_a_failed_and_a_partial_run_are_told_with_the_reason_and_how_to_resume(receiver, block, monkeypatch):
    monkeypatch.setenv(hooks.NOTIFY_ENVIRONMENT, block)
    ends_badly("complete", return_state=True)
    assert receiver.messages == []
    failed = ends_badly("fail", return_state=True)
    ends_badly("partial", return_state=True)
    first, second = receiver.messages
    assert "is Failed" in first["subject"]
    assert "layer 3 diverged" in first["body"]
    assert f"prefect flow-run retry {failed.state_details.flow_run_id}" in first["body"]
    assert "is Partial" in second["subject"]


def test_the_block_can_be_named_by_a_variable_of_the_server_and_switched_off_here(receiver, block, monkeypatch):
    monkeypatch.delenv(hooks.NOTIFY_ENVIRONMENT, raising=False)
    Variable.set(hooks.NOTIFY_VARIABLE, block, overwrite=True)
    try:
        ends_badly("fail", return_state=True)
        assert len(receiver.messages) == 1
        monkeypatch.setenv(hooks.NOTIFY_ENVIRONMENT, "")
        ends_badly("fail", return_state=True)
        assert len(receiver.messages) == 1
    finally:
        Variable.unset(hooks.NOTIFY_VARIABLE)


@pytest.mark.parametrize("name", ["custom-webhook/nobody", "secret/dihal-test-secret"])
def test_a_block_that_cannot_notify_changes_no_state(name, monkeypatch, caplog):
    Secret(value="x").save("dihal-test-secret", overwrite=True)
    monkeypatch.setenv(hooks.NOTIFY_ENVIRONMENT, name)
    with caplog.at_level("WARNING", logger="flows.hooks"):
        assert ends_badly("fail", return_state=True).name == "Failed"
    assert "nobody was told" in caplog.text


@task(name="never-ends")
def never_ends():
    return None


def states_of(client, run) -> list[str]:
    chosen = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
    return [str(item.state_name) for item in client.read_task_runs(flow_run_filter=chosen)]


def lost_run(client):
    """A flow run whose process is gone while its task was running, as the server sees it."""
    run = client.create_flow_run(watch, state=Running())
    client.create_task_run(never_ends, run.id, "0", state=Running())
    return run


def test_task_runs_of_a_dead_run_are_marked_by_its_hook():
    with get_client(sync_client=True) as client:
        run = lost_run(client)
        assert states_of(client, run.id) == ["Running"]
        client.set_flow_run_state(run.id, Crashed(), force=True)
        hooks.ended_badly(flow=ends_badly, flow_run=client.read_flow_run(run.id), state=Crashed())
        assert states_of(client, run.id) == ["Crashed"]


def test_more_lost_task_runs_than_one_answer_of_the_server_holds_are_all_marked(monkeypatch):
    monkeypatch.setattr(hooks, "MOST_AT_ONCE", 2)
    with get_client(sync_client=True) as client:
        run = lost_run(client)
        for number in range(1, 5):
            client.create_task_run(never_ends, run.id, str(number), state=Running())
        assert hooks.mark_lost_tasks(client, run.id) == 5
        assert states_of(client, run.id) == ["Crashed"] * 5
        client.set_flow_run_state(run.id, Crashed(), force=True)


def test_task_runs_of_earlier_dead_runs_are_marked_and_those_of_living_runs_are_not():
    with get_client(sync_client=True) as client:
        dead, alive = lost_run(client), lost_run(client)
        client.set_flow_run_state(dead.id, Crashed(), force=True)
        hooks.mark_earlier_lost_tasks()
        deadline = time.monotonic() + 10
        while states_of(client, dead.id) != ["Crashed"] and time.monotonic() < deadline:
            time.sleep(0.1)
        assert states_of(client, dead.id) == ["Crashed"]
        assert states_of(client, alive.id) == ["Running"]
        assert client.read_flow_run(alive.id).state.type == StateType.RUNNING
        hooks.mark_earlier_lost_tasks(str(alive.id))  # the same run again: its earlier attempt is over
        assert states_of(client, alive.id) == ["Crashed"]
        client.set_flow_run_state(alive.id, Completed(), force=True)
