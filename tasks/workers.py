"""What a task does first when it finds itself in a worker of a cluster instead of the flow's process.

A worker must compute what the flow's own process would: with the same code and the same libraries, or the
store's key would lie. Its log lines go to the run's page in the UI, like those of any task, and to its own
standard output, which a local cluster shares with the flow.
"""

import functools
import logging
import sys

from prefect.context import FlowRunContext

from dihal_core.errors import ConfigError
from dihal_core.provenance import package_version
from dihal_core.requests import StageRequest, snapshot_code, stage_code
from tasks.redaction import redact_logs

LOGGERS = ("dihal_core", "tasks", "flows")


def enter_worker(request: StageRequest) -> None:
    """Make ready for `request` if this is a worker of a cluster; do nothing in the flow's own process.

    Raises
    ------
    ConfigError
        If this worker has other code or libraries than the flow that asked.
    """
    context = FlowRunContext.get()
    if context is not None and context.detached:
        _prepare_process()
        check_same_code(request)


@functools.cache
def _prepare_process() -> None:
    snapshot_code()  # before a builder is imported: a worker that outlives an edit must not pass for the new code
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    handler.setLevel(logging.INFO)
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        logger.propagate = False
    for name in ("root", *(other for other in logging.root.manager.loggerDict if other.startswith("prefect"))):
        for console in logging.getLogger(None if name == "root" else name).handlers:
            if isinstance(console, logging.StreamHandler):
                console.setLevel(logging.ERROR)  # the rest stands in the UI
    redact_logs()


def check_same_code(request: StageRequest) -> None:
    """Raise `ConfigError` unless this process runs the code and the libraries that `request` is keyed by."""
    ours, asked = stage_code(request.stage), request.document["code"]
    changed = sorted(name for name in ours.keys() | asked.keys() if ours.get(name) != asked.get(name))
    if changed:
        raise ConfigError(
            f"{request.label}: this worker runs another version of {changed[0]} than the flow that asked; restart the "
            "workers of compute.runner_address with the flow's version of the project"
        )
    for name, version in request.document["libraries"].items():
        if package_version(name) != version:
            raise ConfigError(
                f"{request.label}: this worker has {name} {package_version(name)}, the flow that asked has {version}, and "
                "numbers depend on it; install the flow's versions (constraints.txt) on the workers"
            )
