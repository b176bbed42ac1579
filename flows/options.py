"""What every flow is decorated with: a readable run name, its tasks' runner, JSON results, and hooks that tell the truth."""

from collections.abc import Callable
from typing import Any

from flows.hooks import HOOKS
from tasks.runners import StudyTaskRunner

MAX_TASKS = 64
"""Threads of the task runner; how many units really run at once is `tasks.capacity`'s to say."""


def flow_options(flow_run_name: Callable[[], str] | str) -> dict[str, Any]:
    """Return the keyword arguments of `prefect.flow` that all flows share."""
    return {
        "flow_run_name": flow_run_name,
        "task_runner": StudyTaskRunner(MAX_TASKS),
        "validate_parameters": True,
        "persist_result": True,
        "result_serializer": "json",
        **HOOKS,
    }
