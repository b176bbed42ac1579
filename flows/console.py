"""What a person sees in the terminal while a study runs."""

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from flows import server
from flows.automations import AUTOMATIONS_FILE, apply_automations

log = logging.getLogger(__name__)
_STARTED = time.monotonic()


def say(text: str) -> None:
    """Print one line with the time since the command began."""
    seconds = int(time.monotonic() - _STARTED)
    sys.stdout.write(f"[{seconds // 60:2d}:{seconds % 60:02d}] {text}\n")
    sys.stdout.flush()


class _ConsoleHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        mark = "" if record.levelno < logging.WARNING else f"{record.levelname}: "
        say(f"{mark}{record.getMessage()}")


def show_logs() -> None:
    """Print the project's own log lines here; leave Prefect's lines to the UI unless they are errors."""
    handler = _ConsoleHandler(level=logging.INFO)
    for name in ("dihal_core", "tasks", "flows"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        for other in list(logger.handlers):
            if isinstance(other, logging.StreamHandler):
                logger.removeHandler(other)
        logger.addHandler(handler)
        logger.propagate = False
    for name in [None, *logging.root.manager.loggerDict]:
        logger = logging.getLogger(name)
        if (name or "root").startswith(("root", "prefect")):
            for other in logger.handlers:
                if isinstance(other, logging.StreamHandler):
                    other.setLevel(logging.CRITICAL)


def connect(home: Path, port: int | None) -> str:
    """Return the API URL to use: `$PREFECT_API_URL` if it answers, else this home's own server, started if need be.

    The environment of this process is then that of every Prefect process of the home. Prefect reads it when it is
    imported first, which must be later.
    """
    given = os.environ.get("PREFECT_API_URL")
    if given and server.healthy(given):
        os.environ.update(server.prefect_environment(home, given))
        return given
    if given:
        say(f"PREFECT_API_URL {given} does not answer; using a local server")
    url = server.ensure_server(home, say, port)
    os.environ.update(server.prefect_environment(home, url))
    project = Path.cwd()
    if (project / server.PREFECT_FILE).is_file() and not server.prefect_toml_leads_elsewhere(home, project):
        server.write_prefect_toml(home, url, project)
    if (project / AUTOMATIONS_FILE).is_file():
        apply_automations(url, project, log.debug, keep_told=True)
    return url


def print_result(result: dict[str, Any], url: str) -> None:
    """Print the answer in five lines and where to look."""
    sys.stdout.write("\n")
    for line in result["answer"]:
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"\nreport: {result['report']}\n")
    if "shared" in result:
        sys.stdout.write(f"shared: {result['shared']}\n")
    sys.stdout.write(f"UI:     {url.removesuffix('/api')}\n")
    sys.stdout.write(
        f"took:   {result['wall_seconds']:.0f} s, peak memory {result['peak_memory_bytes'] / 1e9:.2f} GB, "
        f"stores {result['store_bytes'] / 1e9:.2f} GB\n"
    )
    for layer, message in result["failed_layers"].items():
        sys.stdout.write(f"MISSING {layer}: {message}; run the same command again to fill the gap\n")
    sys.stdout.flush()
