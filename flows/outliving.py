"""A flow run outlives the worker that started it.

The worker reads what the flow prints through a pipe. When the worker dies, the next log line meets a
broken pipe, and the console of `rich`, through which Prefect prints, then exits the process: a sound
study ends as "Execution was aborted by Python system exit call". Its lines still reach the server.
"""

import logging
import os
import sys
from collections.abc import Iterator
from types import MethodType
from typing import Any

from rich.console import Console


def _go_on_silently(console: Console) -> None:
    """Print nothing more, and let whatever else is written to the two streams vanish."""
    console.quiet = True
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError):  # a stream without a descriptor cannot break
            continue
    os.close(nowhere)


def _handlers() -> Iterator[Any]:
    for name in (None, *logging.root.manager.loggerDict):
        yield from logging.getLogger(name).handlers


def outlive_worker() -> None:
    """Let the consoles of all log handlers go on without a reader (again is harmless)."""
    for handler in _handlers():
        console = getattr(handler, "console", None)
        if isinstance(console, Console):
            console.on_broken_pipe = MethodType(_go_on_silently, console)
