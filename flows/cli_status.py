"""`dihal status`: what is done, running, kept or missing. Needs no server; says so where Prefect disagrees."""

import argparse
import json
import os
from pathlib import Path
from typing import Any


def register(commands: Any) -> None:
    """Add the command to the parser of `dihal`."""
    status = commands.add_parser("status", help="how far every study is, from its stores and locks; needs no server")
    status.add_argument("--home", default=None, help="folder of all stores (default: $DIHAL_HOME or ./runs)")
    status.add_argument("--json", action="store_true", help="print JSON")
    status.add_argument("--no-server", action="store_true", help="do not ask a Prefect server, even if one runs")


def run(arguments: argparse.Namespace) -> int:
    """Print the status; always 0, also for an empty home."""
    from dihal_core.remote.failures import brief
    from dihal_core.status import format_status, home_status, untrue_runs
    from dihal_core.store import resolve_home

    home = resolve_home(arguments.home)
    with brief():
        status = home_status(home)
    running = None if arguments.no_server else _running_flows(home)
    status["untrue"] = [] if not running else untrue_runs(home, running["flow_runs"])
    status["server"] = None if running is None else running["sentence"]
    print(json.dumps(status, indent=1) if arguments.json else format_status(status))
    return 0


def _running_flows(home: Path) -> dict[str, Any] | None:
    """Return which runs of our flows the server calls running, or None where none answers."""
    from flows import server

    given = os.environ.get("PREFECT_API_URL")
    url = given if given and server.healthy(given) else server.running_url(home)
    if url is None:
        return None
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import StateType
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.ours import every

    states = FlowRunFilter.model_validate({"state": {"type": {"any_": [StateType.RUNNING, StateType.CANCELLING]}}})
    try:
        with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
            runs = every(client.read_flow_runs, flow_run_filter=states)
    except Exception as error:  # the stores tell the truth without it
        return {"flow_runs": [], "sentence": f"Prefect at {url} gave no flow runs ({type(error).__name__}: {error})"}
    return {
        "flow_runs": [{"id": str(run.id), "name": run.name, "state": run.state_name} for run in runs],
        "sentence": f"Prefect at {url} calls {len(runs)} flow runs running",
    }


COMMANDS = {"status": run}
