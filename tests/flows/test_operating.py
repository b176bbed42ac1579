import os
import signal
import socket
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, VariableCreate
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from dihal_core.errors import ConfigError, ResourceError
from flows.cli import main
from flows.locate import locate
from flows.opening import refuse_forgotten_parameters
from flows.operating import BEFORE_DEPLOY, chosen_gpus, deployment_names, keep_schedules, schedules, switch_schedules

GIVEN = {"profile": "smoke", "backbone": "random-llama-tiny"}


def turn_all_off(client):
    """What a deploy does, whose file says so."""
    for deployment, schedule in schedules(client).values():
        client.update_deployment_schedule(deployment, schedule.id, active=False, parameters=schedule.parameters)


@pytest.fixture
def nightly(prefect_server):
    """A client of a server where the schedule `nightly-slug` of ours runs."""
    with get_client(sync_client=True) as client:
        schedule = DeploymentScheduleCreate(
            schedule=IntervalSchedule(interval=timedelta(days=365)), slug="nightly-slug", active=True, parameters=GIVEN
        )
        made = client.create_deployment(flow_id=client.create_flow(locate), name="nightly", schedules=[schedule])
        yield client
        client.delete_deployment(made)


def runs(client) -> set[str]:
    return {slug for slug, (_, schedule) in schedules(client).items() if schedule.active}


class Relay:
    """A way to the server that can be closed."""

    def __init__(self, url: str):
        self.there = (urlsplit(url).hostname, urlsplit(url).port)
        self.door = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.door.getsockname()[1]}/api"
        self.open = [self.door]
        threading.Thread(target=self._let_in, daemon=True).start()

    def _let_in(self):
        while True:
            try:
                ends = [self.door.accept()[0], socket.create_connection(self.there)]
            except OSError:
                return
            self.open += ends
            for source, target in (ends, ends[::-1]):
                threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            return

    def close(self):
        for end in self.open:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for end in self.open:
            end.close()


def fail_behind(relay: Relay):
    """A deploy that fails while the server goes away."""
    relay.close()
    raise ResourceError("the file has a mistake")


def test_schedules_survive_a_deploy_that_was_killed_before_it_turned_them_on_again(nightly, prefect_server):
    killed = """
import os, signal, sys
from prefect.client.orchestration import get_client
from flows.operating import keep_schedules
from tests.flows.test_operating import turn_all_off
with keep_schedules(sys.argv[1], print), get_client(sync_client=True) as client:
    turn_all_off(client)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PREFECT_API_URL": prefect_server}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", killed, prefect_server], cwd=root, env=environment, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert "nightly-slug" not in runs(nightly)
    assert nightly.read_variable_by_name(BEFORE_DEPLOY).value == ["nightly-slug"]
    with keep_schedules(prefect_server, print) as before:
        assert before == {"nightly-slug"}
        turn_all_off(nightly)
    assert runs(nightly) == {"nightly-slug"}
    assert schedules(nightly)["nightly-slug"][1].parameters == GIVEN
    assert nightly.read_variable_by_name(BEFORE_DEPLOY) is None


def test_an_operator_who_stops_all_after_a_killed_deploy_is_not_overruled_by_the_next(nightly, prefect_server):
    nightly.create_variable(VariableCreate(name=BEFORE_DEPLOY, value=["nightly-slug", "no-longer-in-the-file"]))
    switch_schedules(nightly, [])
    with keep_schedules(prefect_server, print) as before:
        assert before == set()
    nightly.create_variable(VariableCreate(name=BEFORE_DEPLOY, value=["nightly-slug", "no-longer-in-the-file"]))
    with keep_schedules(prefect_server, print) as before:
        assert before == {"nightly-slug", "no-longer-in-the-file"}
    assert runs(nightly) == {"nightly-slug"}


def test_schedules_that_cannot_be_turned_on_again_do_not_hide_why_the_deploy_failed(nightly, prefect_server):
    said = []
    relay = Relay(prefect_server)
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        pytest.raises(ResourceError, match="the file has a mistake"),
        keep_schedules(relay.url, said.append),
    ):
        fail_behind(relay)
    assert "schedules that ran before the deploy may be off: nightly-slug" in said[0]
    relay = Relay(prefect_server)
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        pytest.raises(ResourceError, match="may be off: nightly-slug.*the next `dihal up`"),
        keep_schedules(relay.url, said.append),
    ):
        relay.close()
    with keep_schedules(prefect_server, print) as before:
        assert before == {"nightly-slug"}


def test_a_schedule_keeps_its_parameters_when_it_is_switched(prefect_server, tmp_path, capsys, monkeypatch):
    with get_client(sync_client=True) as client:
        every_year = IntervalSchedule(interval=timedelta(days=365))
        client.create_deployment(
            flow_id=client.create_flow(locate),
            name="switched",
            schedules=[
                DeploymentScheduleCreate(schedule=every_year, slug=slug, active=False, parameters=GIVEN)
                for slug in ("first-slug", "second-slug")
            ],
        )
        assert "dihal-locate/switched" in deployment_names(client)
        assert switch_schedules(client, ["first-slug"]) == ["first-slug"]
        found = schedules(client)
        assert [found[slug][1].active for slug in ("first-slug", "second-slug")] == [True, False]
        assert found["first-slug"][1].parameters == GIVEN
        with pytest.raises(ConfigError, match="did you mean 'second-slug'"):
            switch_schedules(client, ["secnd-slug"])
        monkeypatch.setenv("PREFECT_API_URL", prefect_server)
        assert main(["schedules", "--home", str(tmp_path), "second-slug"]) == 0
        told = {line.split()[1]: line.split() for line in capsys.readouterr().out.splitlines() if "-slug" in line}
        assert [told[slug][0] for slug in ("first-slug", "second-slug")] == ["off", "runs"]
        assert told["second-slug"][-1] == "profile=smoke"
        assert schedules(client)["second-slug"][1].parameters == GIVEN
        assert main(["schedules", "--home", str(tmp_path), "--none", "second-slug"]) == 2
        assert main(["schedules", "--home", str(tmp_path), "thrd-slug"]) == 2
        assert "got --none and second-slug" in capsys.readouterr().err
        switch_schedules(client, [])
        switch_schedules(client, ["second-slug"])
        with keep_schedules(prefect_server, print) as before:
            assert before == {"second-slug"}
            turn_all_off(client)
        assert [schedules(client)[slug][1].active for slug in ("first-slug", "second-slug")] == [False, True]
        switch_schedules(client, [])
        assert not schedules(client)["first-slug"][1].active
        assert schedules(client)["first-slug"][1].parameters == GIVEN
        client.delete_deployment(client.read_deployment_by_name("dihal-locate/switched").id)


def test_a_scheduled_run_that_lost_its_backbone_is_refused_in_a_sentence(prefect_server):
    @flow
    def run(scheduled: bool, backbone: str | None) -> None:
        context = FlowRunContext.get()
        as_scheduled = context.flow_run.model_copy(update={"auto_scheduled": scheduled})
        with context.model_copy(update={"flow_run": as_scheduled}):
            refuse_forgotten_parameters(backbone)

    run(scheduled=False, backbone=None)
    run(scheduled=True, backbone="random-llama-tiny")
    with pytest.raises(ConfigError, match="this scheduled run names no backbone"):
        run(scheduled=True, backbone=None)


def test_more_gpus_than_the_machine_shows_are_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert chosen_gpus(None) == ["0", "1"]
    assert chosen_gpus(1) == ["0"]
    with pytest.raises(ConfigError, match="outside 0..2"):
        chosen_gpus(3)
