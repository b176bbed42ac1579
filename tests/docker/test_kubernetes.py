"""The Kubernetes work pool: rendered by Prefect's own worker, checked against the cluster's schema, no cluster needed."""

import asyncio
import copy
import json
import os
import uuid
from pathlib import Path
from typing import Any

import cyclopts
import kubernetes_validate
import pytest
import yaml

from dihal_core.errors import ConfigError
from dihal_core.store import resolve_home
from flows.retention import RETENTION

KUBERNETES = Path(__file__).resolve().parents[2] / "docker/kubernetes"
PREFECT_FILE = KUBERNETES.parents[1] / "deployments/prefect.yaml"
VERSION = "1.33"


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    return json.loads((KUBERNETES / "base-job-template.json").read_bytes())


def render(template: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return the job manifest that the Kubernetes worker would submit."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import FlowRun
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    async def make() -> dict[str, Any]:
        async with get_client() as client:
            configuration = await KubernetesWorkerJobConfiguration.from_template_and_values(
                copy.deepcopy(template), values, client=client
            )
        configuration.prepare_for_flow_run(FlowRun(flow_id=uuid.uuid4(), name="quickstart-seed-0"))
        return configuration.job_manifest

    return asyncio.run(make())


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    (found,) = manifest["spec"]["template"]["spec"]["containers"]
    return found


def test_a_gpu_run_becomes_a_valid_job_that_asks_for_a_gpu(template, prefect_server):
    manifest = render(template, {"image": "registry.example/dihal:gpu", "gpus": 2})
    kubernetes_validate.validate(manifest, VERSION, strict=True)
    run = container(manifest)
    assert run["image"] == "registry.example/dihal:gpu"
    assert run["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert run["envFrom"] == [{"secretRef": {"name": "dihal-run"}}]
    assert manifest["metadata"]["namespace"] == "dihal"
    assert manifest["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    assert "{{" not in json.dumps(manifest)


def test_a_deployment_adds_to_the_environment_and_the_shared_store_stays(template, prefect_server):
    manifest = render(template, {"gpus": 0, "env": {"PREFECT_LOGGING_EXTRA_LOGGERS": "dihal_core"}})
    kubernetes_validate.validate(manifest, VERSION, strict=True)
    environment = {item["name"]: item.get("value") for item in container(manifest)["env"]}
    assert environment["DIHAL_HOME"] == "s3://dihal/runs"
    assert environment["DIHAL_CACHE"] == "/cache"
    assert environment["PREFECT_LOGGING_EXTRA_LOGGERS"] == "dihal_core"
    assert container(manifest)["resources"]["limits"]["nvidia.com/gpu"] == 0


def shipped_job(deployment: str) -> dict[str, Any]:
    """Job variables of a deployment of prefect.yaml, templated twice as `prefect deploy` does it."""
    from prefect.utilities.templating import apply_values

    deployments = yaml.safe_load(PREFECT_FILE.read_text(encoding="utf-8"))["deployments"]
    (found,) = [item["work_pool"]["job_variables"] for item in deployments if item["name"] == deployment]
    return apply_values(apply_values(found, dict(os.environ), remove_notset=False), {})


@pytest.mark.parametrize("deployment", ["full-study", "full-study-gpu"])
def test_the_shipped_deployments_carry_the_home_they_were_applied_with_and_without_one_the_run_refuses(
    deployment, template, prefect_server, monkeypatch
):
    def home() -> str:
        manifest = render(template, shipped_job(deployment))
        kubernetes_validate.validate(manifest, VERSION, strict=True)
        (found,) = [item["value"] for item in container(manifest)["env"] if item["name"] == "DIHAL_HOME"]
        return found

    monkeypatch.setenv("DIHAL_HOME", "s3://research-dihal/runs")
    assert home() == "s3://research-dihal/runs"
    monkeypatch.delenv("DIHAL_HOME")
    monkeypatch.setenv("DIHAL_HOME", home())  # what the pod then sees: set, but empty
    with pytest.raises(ConfigError, match="DIHAL_HOME is given but empty"):
        resolve_home()


def test_credentials_can_come_from_a_prefect_block_and_the_deployment_holds_a_reference_only(template, prefect_server):
    from prefect.blocks.system import Secret

    name = f"dihal-{uuid.uuid4().hex[:8]}"
    Secret(value="drawn-for-this-test").save(name)
    reference = {"env": {"AWS_SECRET_ACCESS_KEY": f"{{{{ prefect.blocks.secret.{name} }}}}"}}
    environment = {item["name"]: item.get("value") for item in container(render(template, reference))["env"]}
    assert environment["AWS_SECRET_ACCESS_KEY"] == "drawn-for-this-test"  # pragma: allowlist secret
    assert "drawn-for-this-test" not in json.dumps(reference)


def test_every_placeholder_is_a_variable_and_every_variable_is_used(template):
    text = json.dumps(template["job_configuration"])
    variables = template["variables"]["properties"]
    used = {word.split(" }}")[0] for word in text.split("{{ ")[1:]}
    assert used == set(variables)
    assert all("description" in facts or "default" in facts for facts in variables.values())


def test_the_server_takes_the_template(template, prefect_server):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    async def create() -> dict[str, Any]:
        async with get_client() as client:
            name = f"k8s-{uuid.uuid4().hex[:8]}"
            await client.create_work_pool(WorkPoolCreate(name=name, type="kubernetes", base_job_template=template))
            return (await client.read_work_pool(name)).base_job_template

    assert asyncio.run(create()) == template


def test_the_worker_and_its_accounts_are_valid_objects_of_one_namespace():
    objects = list(yaml.safe_load_all((KUBERNETES / "worker.yaml").read_text(encoding="utf-8")))
    assert [item["kind"] for item in objects] == [
        "Namespace",
        "ServiceAccount",
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "Deployment",
    ]
    for item in objects:
        kubernetes_validate.validate(item, VERSION, strict=True)
    assert {item["metadata"].get("namespace", "dihal") for item in objects} == {"dihal"}
    worker = objects[-1]["spec"]["template"]["spec"]
    assert worker["securityContext"]["runAsNonRoot"] is True
    environment = {item["name"]: item for item in worker["containers"][0]["env"]}
    assert "value" not in environment["PREFECT_API_AUTH_STRING"]
    assert container(objects[-1])["args"][-2:] == ["--no-create-pool-if-not-found", "--with-healthcheck"]


def test_the_worker_does_not_make_the_pool_with_another_template_than_ours():
    """Its command line, as Prefect's own parser reads it."""
    from prefect.cli.worker import start

    (worker,) = [
        item
        for item in yaml.safe_load_all((KUBERNETES / "worker.yaml").read_text(encoding="utf-8"))
        if item["kind"] == "Deployment"
    ]
    words = container(worker)["args"]
    assert words[:3] == ["prefect", "worker", "start"]
    app = cyclopts.App(help_flags=[])
    app.default(start)
    _, bound, _ = app.parse_args(words[3:], exit_on_error=False, print_error=False)
    assert bound.arguments["work_pool_name"] == "dihal-kubernetes"
    assert bound.arguments["create_pool_if_not_found"] is False


def test_the_server_of_the_chart_is_the_one_that_the_worker_asks():
    values = yaml.safe_load((KUBERNETES / "server-values.yaml").read_text(encoding="utf-8"))
    worker = list(yaml.safe_load_all((KUBERNETES / "worker.yaml").read_text(encoding="utf-8")))[-1]
    environment = {item["name"]: item for item in container(worker)["env"]}
    pins = (KUBERNETES.parents[1] / "constraints.txt").read_text(encoding="utf-8").split()
    (pinned,) = [line.removeprefix("prefect==") for line in pins if line.startswith("prefect==")]
    assert values["global"]["prefect"]["image"]["prefectTag"] == f"{pinned}-python3.11"
    secret = environment["PREFECT_API_AUTH_STRING"]["valueFrom"]["secretKeyRef"]
    assert secret == {"name": values["server"]["basicAuth"]["existingSecret"], "key": "auth-string"}  # the chart's key
    jobs = "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET"
    assert {key: environment[f"{jobs}_{key.upper()}"]["value"] for key in secret} == secret
    assert {item["name"]: item["value"] for item in values["server"]["env"]}.items() >= RETENTION.items()


def test_a_run_keeps_models_of_the_hub_on_the_disk_of_its_cache(template, prefect_server):
    run = container(render(template, {}))
    environment = {item["name"]: item.get("value") for item in run["env"]}
    assert environment["HF_HOME"].startswith(f"{environment['DIHAL_CACHE']}/")
    assert environment["DIHAL_CACHE"] in {mount["mountPath"] for mount in run["volumeMounts"]}


def test_the_schema_would_catch_a_slip():
    objects = list(yaml.safe_load_all((KUBERNETES / "worker.yaml").read_text(encoding="utf-8")))
    objects[-1]["spec"]["template"]["spec"]["containers"][0]["imagePulPolicy"] = "Always"
    with pytest.raises(Exception, match="imagePulPolicy"):
        kubernetes_validate.validate(objects[-1], VERSION, strict=True)
