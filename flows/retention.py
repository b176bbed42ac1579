"""How long the Prefect database remembers: the server's own clean-up, and removal on demand.

A server started by `dihal` removes flow runs, with their logs and artifacts, 90 days after they ended
(Prefect's `db_vacuum` service, off in a plain server). `dihal gc --prefect-days N` does it now, on any server,
with runs of our flows only. Stores and studies are not touched: they do not live in that database.
"""

import datetime
import os
from pathlib import Path
from typing import Any

from dihal_core.errors import ConfigError

KEPT_DAYS = 90
RETENTION = {
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(KEPT_DAYS * 86400),
}
"""Environment of a server that forgets; what the operator set already wins."""


def retention_environment() -> dict[str, str]:
    """Return the variables of `RETENTION` that the environment does not set already."""
    return {name: value for name, value in RETENTION.items() if name not in os.environ}


def old_runs(home: Path, url: str | None, days: float, delete: bool) -> dict[str, Any]:
    """Return how many runs of our flows ended more than `days` ago and, with `delete`, how many were removed.

    Raises
    ------
    ConfigError
        If no server answers.
    """
    if url is None:
        raise ConfigError(
            f"no Prefect server of {home} is running, so its flow runs cannot be listed; start it with `dihal up`, or "
            "set PREFECT_API_URL"
        )
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    deleted = 0
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        names = _ended_before(client, datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days))
        for name in names if delete else ():
            client.delete_flow_run(name)
            deleted += 1
    database = home / ".prefect" / "prefect.db"
    known = database.is_file()
    return {
        "days": days,
        "found": len(names),
        "deleted": deleted,
        "database": str(database) if known else None,
        "database_bytes": database.stat().st_size if known else None,
    }


def _ended_before(client: Any, moment: datetime.datetime) -> list[Any]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterEndTime
    from prefect.client.schemas.sorting import FlowRunSort

    from flows.ours import every

    chosen = FlowRunFilter(end_time=FlowRunFilterEndTime.model_validate({"before_": moment}))
    found = every(client.read_flow_runs, flow_run_filter=chosen, sort=FlowRunSort.ID_DESC)
    return [run.id for run in found if run.state is not None and run.state.is_final()]
