from datetime import timedelta

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.context import FlowRunContext

from dihal_core.errors import ConfigError
from flows.cli import main
from flows.locate import locate
from flows.opening import refuse_forgotten_parameters
from flows.operating import chosen_gpus, deployment_names, restore_schedules, schedules, switch_schedules

GIVEN = {"profile": "smoke", "backbone": "random-llama-tiny"}


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
        restore_schedules(prefect_server, {"second-slug", "no-longer-in-the-file"})  # as after a deploy
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
