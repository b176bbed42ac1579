"""`dihal schedules`: which schedules of the deployments run, and switching them, on any Prefect server.

`dihal up --schedules` does the same for the local server. The UI must not: Prefect 3.8 empties a schedule's parameters.
"""

import argparse
import os
from typing import Any


def register(commands: Any) -> None:
    """Add the command to the parser of `dihal`."""
    parser = commands.add_parser(
        "schedules", help="list the schedules of the deployments, or say which run from now on"
    )
    parser.add_argument("--home", default=None, help="folder of all stores (default: $DIHAL_HOME or ./runs)")
    parser.add_argument("names", nargs="*", metavar="NAME", help="these run from now on, all others stop")
    parser.add_argument("--none", action="store_true", help="stop all")


def run(arguments: argparse.Namespace) -> int:
    """Print every schedule with its state; switch first if names or `--none` are given.

    Raises
    ------
    ConfigError
        For a schedule that no deployment has, names together with `--none`, or if no server answers.
    """
    from dihal_core.errors import ConfigError
    from dihal_core.store import resolve_home
    from flows import server

    if arguments.none and arguments.names:
        raise ConfigError(f"got --none and {', '.join(arguments.names)}; give names, or --none to stop all")
    home = resolve_home(arguments.home)
    url = os.environ.get("PREFECT_API_URL") or server.running_url(home)
    if url is None or not server.healthy(url):
        raise ConfigError(
            f"no Prefect server answers at {url or home}; start it with `dihal up`, or set PREFECT_API_URL (and "
            "PREFECT_API_AUTH_STRING where it asks for a password)"
        )
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.operating import schedules, switch_schedules

    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        if arguments.none or arguments.names:
            switch_schedules(client, arguments.names)
        found = schedules(client)
    for name, (_, schedule) in sorted(found.items()):
        when = getattr(schedule.schedule, "cron", None) or str(schedule.schedule)
        study = ", ".join(
            f"{key}={value}" for key, value in sorted((schedule.parameters or {}).items()) if value is not None
        )
        print(f"{'runs' if schedule.active else 'off ':<5} {name:<28} {when:<14} {study}".rstrip())
    if not found:
        print("no deployment has a schedule; `dihal up` applies deployments/prefect.yaml")
    return 0


COMMANDS = {"schedules": run}
