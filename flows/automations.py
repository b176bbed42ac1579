"""Applies `deployments/automations.yaml`: made if new, updated if known by name, so that it can be run again.

A run that is gone tells nobody itself: where a notification block is named (`flows.hooks`), the server does.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from dihal_core.errors import ConfigError, ResourceError

AUTOMATIONS_FILE = Path("deployments/automations.yaml")
TELLS = "send-notification"
CALLED_CRASHED = {
    "type": TELLS,
    "subject": "DiHAL: {{ flow_run.name }} sends no heartbeats and is called Crashed",
    "body": "Its process is gone, or cannot reach the server. Resume: prefect flow-run retry {{ flow_run.id }}",
}
"""What the server tells; the block is added to it."""


def read_automations(path: Path) -> list[dict[str, Any]]:
    """Return the automations of a file as `prefect automation create --from-file` reads it.

    Raises
    ------
    ConfigError
        If it is missing or not of that form.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))["automations"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} holds no list under `automations` ({type(error).__name__}: {error}); take it from the repository"
        ) from error
    return list(found)


def apply_automations(url: str, project: Path, say: Callable[[str], None], keep_told: bool = False) -> None:
    """Create or update every automation of the project on the server at `url`.

    With `keep_told` a server that tells of runs that are gone goes on doing so where no block is named here.

    Raises
    ------
    ConfigError
        If the file is unusable.
    ResourceError
        If the server refuses one.
    """
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.automations import AutomationCore
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.hooks import notification_block

    wanted = read_automations(project / AUTOMATIONS_FILE)
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        for data in wanted:
            try:
                known = client.read_automations_by_name(str(data["name"]))
                told = _block_id(client, notification_block(), say)
                if told is None and keep_told and known:
                    told = next((str(a.block_document_id) for a in known[0].actions if a.type == TELLS), None)  # type: ignore[union-attr]
                if told is not None and any(action.get("state") == "CRASHED" for action in data["actions"]):
                    data["actions"].append({**CALLED_CRASHED, "block_document_id": told})
                automation = AutomationCore.model_validate(data)
                if known:
                    client.update_automation(known[0].id, automation)
                else:
                    client.create_automation(automation)
            except Exception as error:
                raise ResourceError(
                    f"automation {data.get('name')!r} of {AUTOMATIONS_FILE} was not accepted "
                    f"({type(error).__name__}: {error}); correct it and run `dihal up` again"
                ) from error
    say(f"automations applied: {', '.join(str(data['name']) for data in wanted)}")


def _block_id(client: Any, name: str | None, say: Callable[[str], None]) -> str | None:
    """Return the id of the notification block `name`, None if there is none: then the server tells nobody."""
    if name is None:
        return None
    slug, _, block = name.partition("/")
    try:
        return str(client.read_block_document_by_name(block, slug).id)
    except Exception as error:
        say(
            f"no notification block {name!r} on the server ({type(error).__name__}): nobody is told of runs whose process "
            "is gone; make the block (deployments/README.md) and run `dihal up` again"
        )
        return None
