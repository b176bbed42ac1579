"""deployments/prefect.yaml against the code it names."""

import importlib
import re
from inspect import getsource
from pathlib import Path

import pytest
import yaml
from prefect.client.schemas.schedules import CronSchedule

from dihal_core.profiles import backbone_names, load_study
from dihal_core.study import slug
from dihal_core.watching import needs_gpu

FILE = Path(__file__).resolve().parents[2] / "deployments" / "prefect.yaml"
DEPLOYMENTS = {item["name"]: item for item in yaml.safe_load(FILE.read_text(encoding="utf-8"))["deployments"]}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_deployment_names_a_flow_its_parameters_and_a_queue(name):
    module, _, function = DEPLOYMENTS[name]["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), function)
    assert set(DEPLOYMENTS[name]["parameters"]) == set(flow.parameters.model_dump()["properties"])
    assert DEPLOYMENTS[name]["description"]
    assert DEPLOYMENTS[name]["work_pool"]["work_queue_name"] == ("gpu" if name.endswith("-gpu") else "default")


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_deployed_flow_sees_to_its_logs_and_its_worker_first(name):
    module, _, function = DEPLOYMENTS[name]["entrypoint"].rpartition(".")
    source = getsource(getattr(importlib.import_module(module), function).fn)
    assert re.search(r"\b(guard_run|open_study|open_finished)\(", source)  # the last two begin with the first


def test_every_flow_has_a_deployment():
    entrypoints = {item["entrypoint"].split(".")[1] for item in DEPLOYMENTS.values()}
    assert entrypoints >= {"study", "locate", "sweep", "replace", "evaluation", "compare", "sensitivity", "watch"}


def test_every_backbone_has_a_schedule_that_is_off_and_valid():
    found = {
        item["slug"]: (name, item)
        for name in ("full-study", "full-study-gpu")
        for item in DEPLOYMENTS[name]["schedules"]
    }
    assert {slug(name) for name in backbone_names()} <= set(found)
    for deployment, item in found.values():
        assert item["active"] is False
        CronSchedule(cron=item["cron"], timezone=item["timezone"])
        settings = load_study(**item["parameters"])
        assert needs_gpu(settings) == (deployment == "full-study-gpu")
        assert set(item["parameters"]) <= set(DEPLOYMENTS[deployment]["parameters"])


def test_slugs_are_unique_over_all_deployments():
    slugs = [item["slug"] for deployment in DEPLOYMENTS.values() for item in deployment["schedules"]]
    assert len(slugs) == len(set(slugs))
