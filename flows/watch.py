"""The daily look at the hub: a watched backbone whose revision changed gets a study of its own."""

from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed

from dihal_core.errors import ConfigError, NetworkError
from dihal_core.remote.link import home_uri
from dihal_core.store import resolve_home
from dihal_core.watching import hub_revision, remember, remembered, study_parameters, watched
from flows.guard import guard_run
from flows.opening import show_core_logs
from flows.options import flow_options


@flow(name="dihal-watch", **flow_options("watch"))
def watch(backbones: list[str] | None = None) -> State[Any]:
    """Ask the hub for the revision of every watched backbone and start a study of those that changed.

    Args:
        backbones: Presets to watch; None means all that come from the hub.
    """
    guard_run()
    show_core_logs()
    targets = watched(backbones)
    looks = [look(target.backbone) for target in targets]
    return conclude(looks)


@task(name="look", task_run_name="look-{backbone}", persist_result=False)
def look(backbone: str) -> dict[str, Any]:
    """Compare the hub's revision with the one seen last; a first look only remembers it."""
    home, target = resolve_home(), watched([backbone])[0]
    before = remembered(home, backbone).get("revision")
    try:
        revision = hub_revision(target.identifier, target.branch)
    except NetworkError as error:
        return {"backbone": backbone, "status": "unknown", "before": before, "revision": None, "text": str(error)}
    found = {"backbone": backbone, "before": before, "revision": revision}
    if before == revision:
        return {**found, "status": "unchanged", "text": f"still {revision[:12]}"}
    if before is None:
        remember(home, target, revision)
        return {**found, "status": "first look", "text": f"{revision[:12]} noted; a change from here on starts a study"}
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(target.deployment)
        except ObjectNotFound as error:
            raise ConfigError(
                f"there is no deployment {target.deployment} to start; `dihal up` applies all of them"
            ) from error
        # The key makes the server give back the same run, should this process die before it remembers.
        started = client.create_flow_run_from_deployment(
            deployment.id,
            parameters=study_parameters(target, revision),
            idempotency_key=f"watch-{backbone}-{revision}",
            tags=["dihal", "watch"],
        )
    remember(home, target, revision, str(started.id))
    text = f"{before[:12]} -> {revision[:12]}: started {target.deployment}, flow run {started.name} ({started.id})"
    return {**found, "status": "changed", "text": text}


def conclude(looks: list[dict[str, Any]]) -> State[Any]:
    """Show what was seen; a backbone the hub did not answer for is unknown, which is no failure."""
    folder = f"{home_uri(resolve_home())}/watch"
    rows = "\n".join(f"| {item['backbone']} | {item['status']} | {item['text']} |" for item in looks)
    create_markdown_artifact(
        f"## Watched backbones\n\n| backbone | status | |\n|---|---|---|\n{rows}\n\n---\nMemory: `{folder}`",
        key="watched-backbones",
    )
    answer = [f"{item['backbone']}: {item['status']}, {item['text']}" for item in looks]
    counts = {status: sum(item["status"] == status for item in looks) for status in ("changed", "unchanged", "unknown")}
    return Completed(
        message="; ".join(answer) if counts["unknown"] else ", ".join(f"{n} {status}" for status, n in counts.items()),
        data={"answer": answer, "looks": looks, "report": folder, "failed_layers": {}},
    )
