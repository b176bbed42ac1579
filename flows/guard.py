"""What every flow does before anything else: see to its process, its logs, and what it may touch."""

from pathlib import Path

from prefect.runtime import deployment, flow_run

from dihal_core.config import StudySettings
from flows.hooks import mark_earlier_lost_tasks
from flows.outliving import outlive_worker
from flows.safety import require_permitted
from tasks.redaction import redact_logs


def guard_run() -> None:
    """Outlive the worker, keep secrets out of log lines, mark the task runs that earlier, dead runs left behind."""
    outlive_worker()
    redact_logs()
    mark_earlier_lost_tasks(flow_run.id)


def guard_settings(settings: StudySettings, home: Path) -> None:
    """Hold a deployment's run, asked for through the API, to its operator's permissions.

    Raises
    ------
    ConfigError
        Naming what is not permitted.
    """
    if deployment.id is not None:
        require_permitted(settings, home)
