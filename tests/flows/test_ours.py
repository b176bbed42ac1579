"""One Prefect server, two projects: what the other one has there is left alone by every command and automation of ours."""

import importlib
import pkgutil
import socket
import time
from datetime import timedelta
from pathlib import Path

import pytest
from prefect import Flow, flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Completed, Crashed, Running

import flows
from flows import hooks, ours, retention
from flows.automations import AUTOMATIONS_FILE, read_automations
from flows.cli import main
from flows.operating import deployment_names, schedules, switch_schedules
from flows.watch import watch

ROOT = Path(__file__).resolve().parents[2]


@flow(name="nightly-billing")
def theirs():
    return 1


@flow(name="dihal-compare")
def one_of_ours():
    return 1


@task(name="unfinished")
def unfinished():
    return None


@pytest.fixture
def client(prefect_server):
    with get_client(sync_client=True) as found:
        yield found


def deploy(client, what: Flow, name: str, slug: str):
    schedule = IntervalSchedule(interval=timedelta(days=365))
    made = DeploymentScheduleCreate(schedule=schedule, slug=slug, active=True, parameters={})
    return client.create_deployment(flow_id=client.create_flow(what), name=name, schedules=[made])


def test_the_names_are_those_of_all_flows_and_the_automation_has_the_same():
    modules = [importlib.import_module(f"flows.{item.name}") for item in pkgutil.iter_modules(flows.__path__)]
    found = {item.name for module in modules for item in vars(module).values() if isinstance(item, Flow)}
    assert found == set(ours.FLOW_NAMES)
    (data,) = read_automations(ROOT / AUTOMATIONS_FILE)
    assert data["trigger"]["match_related"]["prefect.resource.name"] == list(ours.FLOW_NAMES)


def test_schedules_of_others_are_neither_listed_nor_switched(client, prefect_server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ours, "PAGE", 1)  # two of ours do not fit on one page
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    made = [
        deploy(client, theirs, "billing", "billing-slug"),
        deploy(client, one_of_ours, "first", "ours-1"),
        deploy(client, one_of_ours, "second", "ours-2"),
    ]
    try:
        assert {"ours-1", "ours-2"} <= set(schedules(client))
        assert {"dihal-compare/first", "dihal-compare/second"} <= set(deployment_names(client))
        assert "nightly-billing/billing" not in deployment_names(client)
        assert main(["schedules", "--home", str(tmp_path), "ours-2"]) == 0
        assert main(["schedules", "--home", str(tmp_path), "--none"]) == 0
        assert "billing-slug" not in capsys.readouterr().out
        assert main(["schedules", "--home", str(tmp_path), "billing-slug"]) == 2
        assert "no schedule 'billing-slug'" in capsys.readouterr().err
        switch_schedules(client, [])
        assert [client.read_deployment(name).schedules[0].active for name in made] == [True, False, False]
    finally:
        for name in made:
            client.delete_deployment(name)


def test_runs_of_others_are_not_forgotten(client, prefect_server, tmp_path, monkeypatch):
    monkeypatch.setattr(ours, "PAGE", 1)
    kept, *gone = (client.create_flow_run(what, state=Running()).id for what in (theirs, one_of_ours, one_of_ours))
    for run in (kept, *gone):
        client.set_flow_run_state(run, Completed(), force=True)
    told = retention.old_runs(tmp_path, prefect_server, 0, delete=True)
    assert told["deleted"] == told["found"] >= 2
    assert client.read_flow_run(kept).id == kept
    left = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[kept, *gone])))
    assert [run.id for run in left] == [kept]


def lost(client, what: Flow):
    """The task run of a dead flow run, as a kill -9 leaves it."""
    run = client.create_flow_run(what, state=Running())
    found = client.create_task_run(unfinished, run.id, "0", state=Running())
    client.set_flow_run_state(run.id, Crashed(), force=True)
    return found.id


def state_of(client, task_run, wanted: str) -> str:
    """The state of a task run; the server takes events in a moment late."""
    deadline = time.monotonic() + 10
    while (state := str(client.read_task_run(task_run).state_name)) != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return state


def test_task_runs_of_others_are_not_marked_at_the_start_of_a_run(client):
    foreign, own = lost(client, theirs), lost(client, watch)
    hooks.mark_earlier_lost_tasks()
    assert state_of(client, own, "Crashed") == "Crashed"
    assert str(client.read_task_run(foreign).state_name) == "Running"


def test_a_start_does_not_wait_for_a_server_that_is_silent_or_slow(client, monkeypatch, caplog):
    own = lost(client, watch)
    with socket.create_server(("127.0.0.1", 0)) as silent, caplog.at_level("WARNING", logger="flows.hooks"):
        monkeypatch.setattr(hooks, "PATIENCE_SECONDS", 0.5)
        started = time.monotonic()
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{silent.getsockname()[1]}/api"}):
            hooks.mark_earlier_lost_tasks(str(own))
        assert time.monotonic() - started < 10
        assert "could not look for task runs" in caplog.text
        monkeypatch.undo()
        assert hooks.mark_lost_tasks(client, until=time.monotonic()) == 0
    assert state_of(client, own, "Running") == "Running"
    hooks.mark_earlier_lost_tasks()
    assert state_of(client, own, "Crashed") == "Crashed"


def heartbeats(client, run) -> list[ReceivedEvent]:
    """Heartbeat and end of a run as the server has them; they arrive some seconds late."""
    chosen = EventFilter(
        event=EventNameFilter(name=["prefect.flow-run.heartbeat", "prefect.flow-run.Completed"]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{run}"]),
    )
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = client.read_events(filter=chosen, limit=50).events
        if len(found) == 2:
            return [ReceivedEvent.model_validate(event.model_dump(mode="json")) for event in found]
        time.sleep(0.3)
    raise AssertionError("the server has no heartbeat of the run")


def test_the_automation_for_dead_runs_takes_heartbeats_and_ends_of_our_runs_and_of_no_others(client):
    (data,) = read_automations(ROOT / AUTOMATIONS_FILE)
    trigger = EventTrigger.model_validate(data["trigger"])
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 30}):
        foreign, own = (what(return_state=True).state_details.flow_run_id for what in (theirs, one_of_ours))
    assert [trigger.covers(event) for event in heartbeats(client, own)] == [True, True]
    assert [trigger.covers(event) for event in heartbeats(client, foreign)] == [False, False]
