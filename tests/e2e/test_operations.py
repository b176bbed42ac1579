"""Operating as deployments/README.md tells it: up, a schedule that fires, an announced backbone, queues, status, down."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import server
from tasks.slots import slot_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
EVERY_S = 20


def dihal(project: Path, home: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | variables
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *words, "--home", str(home)],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def operated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("operated")
    project, home = folder / "project", folder / "runs"
    shutil.copytree(ROOT / "deployments", project / "deployments")
    path = project / "deployments" / "prefect.yaml"
    text = yaml.safe_load(path.read_text())
    given = {"profile": "smoke", "backbone": "random-llama-tiny", "seed": 7}
    schedule = {"slug": "often", "interval": EVERY_S, "active": False, "parameters": given}
    next(item for item in text["deployments"] if item["name"] == "full-study")["schedules"].append(schedule)
    path.write_text(yaml.safe_dump(text))
    port = server.free_port(4330)
    try:
        up = dihal(project, home, "up", "--port", str(port))
        assert up.returncode == 0, up.stdout + up.stderr
        yield project, home, server.running_url(home), up.stdout
    finally:
        assert "server: stopped" in dihal(project, home, "down").stdout


@pytest.fixture
def client(operated):
    with temporary_settings({PREFECT_API_URL: operated[2]}), get_client(sync_client=True) as found:
        yield found


def wait_for(condition, seconds: float, what: str):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(1)
    raise AssertionError(f"no {what} within {seconds} s")


def finished_study(client, **parameters):
    def look():
        for run in client.read_flow_runs(limit=200):
            if run.state.is_final() and all(run.parameters.get(k) == v for k, v in parameters.items()):
                return run
        return None

    return look


def test_up_applies_every_deployment_and_all_schedules_are_off(operated, client):
    names = {
        item["name"] for item in yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]
    }
    assert {item.name for item in client.read_deployments()} == names
    assert all(f"/{name}" in operated[3] for name in names)
    assert not [item for one in client.read_deployments() for item in one.schedules if item.active]
    assert client.read_work_queue_by_name("gpu", work_pool_name=server.POOL).name == "gpu"


def test_a_schedule_that_was_switched_on_fires_and_stays_on_over_another_up(operated, client):
    project, home, _, _ = operated
    wrong = dihal(project, home, "up", "--schedules", "oftn")
    assert wrong.returncode == 2
    assert "did you mean 'often'" in wrong.stderr
    assert dihal(project, home, "up", "--schedules", "often").returncode == 0
    assert dihal(project, home, "up", "--schedules", "oftn").returncode == 2  # and stops nothing
    assert [item.slug for one in client.read_deployments() for item in one.schedules if item.active] == ["often"]
    run = wait_for(finished_study(client, seed=7, profile="smoke"), 240, "run of the schedule")
    assert run.auto_scheduled
    assert run.state_name == "Completed", run.state.message
    assert "schedules that run: often" in dihal(project, home, "up").stdout
    assert "schedules that run: none" in dihal(project, home, "up", "--schedules").stdout


def test_an_announced_backbone_is_studied(operated, client):
    project, home, url, _ = operated
    payload = {"backbone": "random-llama-tiny", "profile": "smoke", "overrides": {"geometry.k": 4}}
    words = ["event", "emit", "dihal.backbone.released", "--resource-id", "dihal.backbone.random-llama-tiny"]
    done = server.prefect(home, url, *words, "--payload", json.dumps(payload), cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    run = wait_for(finished_study(client, overrides={"geometry.k": 4}), 240, "run of the event")
    assert run.state_name == "Completed", run.state.message
    assert run.parameters["backbone"] == "random-llama-tiny"
    study = next((home / "studies").glob("smoke-random-llama-4-layers-d-32-s0-*/study.json"))
    assert json.loads(study.read_bytes())["settings"]["geometry"]["k"] == 4


def test_two_studies_asked_for_at_once_run_one_after_the_other(operated, client):
    deployment = client.read_deployment_by_name("dihal/full-study")
    for seed in (21, 22):
        given = {"profile": "smoke", "backbone": "random-llama-tiny", "seed": seed}
        client.create_flow_run_from_deployment(deployment.id, parameters=given)
    runs = [wait_for(finished_study(client, seed=seed), 360, f"run of seed {seed}") for seed in (21, 22)]
    assert [run.state_name for run in runs] == ["Completed", "Completed"]
    first, second = sorted(runs, key=lambda run: run.start_time)
    assert second.start_time >= first.end_time


def test_a_run_in_the_gpu_queue_waits_for_a_machine_that_has_one(operated, client):
    deployment = client.read_deployment_by_name("dihal/full-study-gpu")
    assert deployment.work_queue_name == "gpu"
    run = client.create_flow_run_from_deployment(deployment.id, parameters={"profile": "smoke", "seed": 9})
    time.sleep(25)
    state = client.read_flow_run(run.id).state
    client.delete_flow_run(run.id)
    assert state.is_scheduled()


def test_each_gpu_gets_a_worker_of_its_own_a_slot_and_one_run_at_a_time(operated, client):
    project, home, _, _ = operated
    up = dihal(project, home, "up", CUDA_VISIBLE_DEVICES="0,1")  # what a machine with two GPUs shows
    assert up.returncode == 0, up.stdout + up.stderr
    assert "worker-gpu-0 for pool dihal-local started" in up.stdout
    assert "worker-gpu-1 for pool dihal-local started" in up.stdout
    assert client.read_work_queue_by_name("gpu", work_pool_name=server.POOL).concurrency_limit == 2
    for gpu in ("0", "1"):
        assert client.read_concurrency_limit_by_tag(slot_of(gpu)).concurrency_limit == 1
    deployment = client.read_deployment_by_name("dihal/full-study-gpu")
    given = {"profile": "smoke", "backbone": "random-llama-tiny", "seed": 11}
    client.create_flow_run_from_deployment(deployment.id, parameters=given)
    run = wait_for(finished_study(client, seed=11), 240, "run of the GPU queue")
    assert run.state_name == "Completed", run.state.message
    assert run.work_queue_name == "gpu"


def test_an_announcement_may_come_from_a_webhook(operated, client):
    event = {
        "event": "dihal.backbone.released",
        "occurred": datetime.now(UTC).isoformat(),
        "id": str(uuid4()),
        "resource": {"prefect.resource.id": "dihal.backbone.random-llama-tiny"},
        "payload": {"backbone": "random-llama-tiny", "profile": "smoke", "overrides": {"seed": 5}},
    }
    body = json.dumps([event]).encode()
    request = urllib.request.Request(f"{operated[2]}/events", body, {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as reply:
        assert reply.status == 204
    assert wait_for(finished_study(client, overrides={"seed": 5}), 240, "run of the webhook").state_name == "Completed"


def test_core_logs_reach_the_server_and_status_tells_the_studies(operated, client):
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    project, home, _, _ = operated
    run = next(item for item in client.read_flow_runs(limit=200) if item.state_name == "Completed")
    chosen = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
    names = {line.name for line in client.read_logs(chosen, limit=200)}
    assert any(name.startswith("dihal_core.") for name in names), names
    status = dihal(project, home, "status", "--json")
    assert status.returncode == 0
    found = json.loads(status.stdout)
    assert "calls 0 flow runs running" in found["server"]
    assert {item["state"] for item in found["studies"]} == {"finished"}
    assert found["untrue"] == []
