"""Applies `deployments/automations.yaml`: made if new, updated if known by name, so that it can be run again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from dihal_core.errors import ConfigError, ResourceError

AUTOMATIONS_FILE = Path("deployments/automations.yaml")


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


def apply_automations(url: str, project: Path, say: Callable[[str], None]) -> None:
    """Create or update every automation of the project on the server at `url`.

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

    wanted = read_automations(project / AUTOMATIONS_FILE)
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        for data in wanted:
            try:
                automation = AutomationCore.model_validate(data)
                known = client.read_automations_by_name(automation.name)
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
