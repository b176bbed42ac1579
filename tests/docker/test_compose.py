"""docker/compose.yaml against the Compose Specification and against what we promise of it; no engine needed.

compose-spec.json is the schema of https://github.com/compose-spec/compose-spec (Apache-2.0, 2021).
"""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from flows.retention import RETENTION

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))


def test_it_follows_the_specification(compose):
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_bytes())
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*", compose["name"])
    rest = {key: value for key, value in compose.items() if key != "name"}  # newer than this copy of the schema
    jsonschema.Draft7Validator(schema).validate(rest)


def test_the_schema_would_catch_a_slip(compose):
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_bytes())
    wrong = {"services": {"worker": {**compose["services"]["worker"], "enviroment": {}}}}
    with pytest.raises(jsonschema.ValidationError, match="enviroment"):
        jsonschema.Draft7Validator(schema).validate(wrong)


def test_every_port_is_on_loopback_unless_told_otherwise(compose):
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("${DIHAL_BIND:-127.0.0.1}:") for port in ports)
    assert "ports" not in compose["services"]["postgres"]


def test_every_foreign_image_is_pinned_by_tag(compose):
    images = {service["image"] for service in compose["services"].values()}
    ours = {image for image in images if "dihal" in image}
    assert {"postgres:17.6-bookworm", "chrislusf/seaweedfs:4.12"} == images - ours
    assert not [image for image in images if image.endswith(":latest")]


def test_no_service_holds_a_secret_and_every_secret_is_a_file_outside_git(compose):
    for name, service in compose["services"].items():
        for variable, value in (service.get("environment") or {}).items():
            if re.search(r"PASSWORD|SECRET|AUTH|KEY|CREDENTIAL|TOKEN", variable):
                assert str(value).startswith("/run/secrets/"), (name, variable)
                assert Path(str(value)).name in service["secrets"], (name, variable)
        assert set(service.get("secrets", [])) <= set(compose["secrets"])
    assert all(secret["file"].startswith("${DIHAL_SECRETS:-./secrets}/") for secret in compose["secrets"].values())
    assert "/docker/secrets/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_services_start_in_order_and_say_when_they_are_healthy(compose):
    services = compose["services"]
    for name in ("postgres", "store", "server", "worker"):
        assert services[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert services["server"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["worker"]["depends_on"] == {"prepare": {"condition": "service_completed_successfully"}}
    assert set(services["prepare"]["depends_on"]) == {"server", "store"}


def test_every_service_of_ours_can_be_built_here(compose):
    for name in ("server", "prepare", "worker", "gpu-worker"):
        build = compose["services"][name]["build"]
        assert (DOCKER / build["context"] / build["dockerfile"]).is_file()
    assert compose["services"]["gpu-worker"]["build"]["target"] == "gpu"


def test_our_containers_drop_every_capability(compose):
    for name in ("server", "prepare", "worker", "gpu-worker"):
        assert compose["services"][name]["cap_drop"] == ["ALL"]
        assert compose["services"][name]["security_opt"] == ["no-new-privileges:true"]


def test_the_worker_serves_a_pool_that_the_deployments_name(compose):
    named = {
        item["work_pool"]["name"]
        for item in yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    }
    command = compose["services"]["worker"]["command"]
    environment = compose["services"]["gpu-worker"]["environment"]
    for given in (command[command.index("--pool") + 1], environment["DIHAL_POOL"]):
        pool = re.fullmatch(r"\$\{DIHAL_POOL:-(.+)\}", given)
        assert pool is not None
        assert pool[1] in named


def test_cpu_runs_go_to_a_worker_of_their_own_that_starts_one_at_a_time_unless_told_otherwise(compose):
    command = compose["services"]["worker"]["command"]
    assert command[command.index("--work-queue") + 1] == "default"  # as deployments/prefect.yaml calls it
    assert command[command.index("--limit") + 1] == "${DIHAL_RUNS_AT_ONCE:-1}"
    # what prepare.py checks is what the worker gets
    assert compose["services"]["prepare"]["environment"]["DIHAL_RUNS_AT_ONCE"] == "${DIHAL_RUNS_AT_ONCE:-1}"


def test_as_many_gpu_workers_start_as_gpus_are_reserved(compose):
    service = compose["services"]["gpu-worker"]
    assert service["command"] == ["python", "/opt/dihal-docker/gpu_workers.py"]
    (reserved,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert service["environment"]["DIHAL_GPUS"] == reserved["count"] == "${DIHAL_GPUS:-1}"


def test_workers_and_nobody_else_get_the_token_for_gated_models(compose):
    given = {name for name, service in compose["services"].items() if "hf_token" in service.get("secrets", [])}
    told = {
        name
        for name, service in compose["services"].items()
        if "HF_TOKEN__OPTIONAL_FILE" in service.get("environment", {})
    }
    assert given == told == {"worker", "gpu-worker"}


def test_browsers_reach_the_api_at_an_address_of_the_operators_choice(compose):
    given = compose["services"]["server"]["environment"]["PREFECT_UI_API_URL"]
    assert given == "${DIHAL_UI_API_URL:-http://${DIHAL_BIND:-127.0.0.1}:4200/api}"


def test_secrets_are_drawn_once_unlike_each_other_and_for_this_user_only(tmp_path: Path, compose):
    def draw() -> str:
        folder = {**os.environ, "DIHAL_SECRETS": str(tmp_path / "s")}
        return subprocess.run(
            ["/bin/sh", str(DOCKER / "secrets.sh")], env=folder, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    said = draw()
    files = {path.name: path.read_text() for path in (tmp_path / "s").iterdir()}
    assert set(files) == {Path(secret["file"]).name for secret in compose["secrets"].values()}
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o700
    assert re.fullmatch(r"dihal:[0-9a-f]{48}\n", files["prefect_auth"])
    (identity,) = json.loads(files["s3_identities.json"])["identities"]
    (credentials,) = identity["credentials"]
    assert f"aws_access_key_id = {credentials['accessKey']}\n" in files["aws_credentials"]
    drawn = [files["postgres_password"].strip(), files["prefect_auth"].strip(), *credentials.values()]
    assert len(set(drawn)) == 4
    assert not [secret for secret in drawn if secret in said]
    assert files["hf_token"] == ""
    (tmp_path / "s" / "hf_token").write_text("hf_of_the_operator\n")
    draw()
    assert {path.name: path.read_text() for path in (tmp_path / "s").iterdir()} == {
        **files,
        "hf_token": "hf_of_the_operator\n",
    }


def test_a_folder_of_secrets_from_before_gets_what_it_lacks(tmp_path: Path):
    (tmp_path / "prefect_auth").write_text("dihal:mine\n")
    folder = {**os.environ, "DIHAL_SECRETS": str(tmp_path)}
    subprocess.run(["/bin/sh", str(DOCKER / "secrets.sh")], env=folder, capture_output=True, check=True, timeout=60)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "prefect_auth": "dihal:mine\n",
        "hf_token": "",
    }
    assert stat.S_IMODE((tmp_path / "hf_token").stat().st_mode) == 0o644  # containers read it under another user id


def test_a_bad_number_of_runs_is_refused_before_anything_is_prepared():
    done = subprocess.run(
        [sys.executable, str(DOCKER / "prepare.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "DIHAL_HOME": "s3://dihal/runs", "DIHAL_RUNS_AT_ONCE": "two"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("dihal: DIHAL_RUNS_AT_ONCE 'two' is not a whole number from 1 to 9999;")
    assert "Traceback" not in done.stderr


def test_the_server_forgets_flow_runs_like_the_local_one(compose):
    environment = compose["services"]["server"]["environment"]
    assert {name: environment[name] for name in RETENTION} == RETENTION
