"""docker/compose.yaml against the Compose Specification and against what we promise of it; no engine needed.

compose-spec.json is the schema of https://github.com/compose-spec/compose-spec (Apache-2.0, 2021).
"""

import json
import os
import re
import stat
import subprocess
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
    for name in ("worker", "gpu-worker"):
        command = compose["services"][name]["command"]
        pool = re.fullmatch(r"\$\{DIHAL_POOL:-(.+)\}", command[command.index("--pool") + 1])
        assert pool is not None
        assert pool[1] in named


def test_gpu_runs_go_to_the_gpu_worker_and_no_other(compose):
    queues = {}
    for name in ("worker", "gpu-worker"):
        command = compose["services"][name]["command"]
        queues[name] = command[command.index("--work-queue") + 1]
    assert queues == {"worker": "default", "gpu-worker": "gpu"}  # as deployments/prefect.yaml calls them


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
    draw()
    assert {path.name: path.read_text() for path in (tmp_path / "s").iterdir()} == files


def test_the_server_forgets_flow_runs_like_the_local_one(compose):
    environment = compose["services"]["server"]["environment"]
    assert {name: environment[name] for name in RETENTION} == RETENTION
