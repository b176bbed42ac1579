"""What the last run of a flow asked for: `studies/<name>/runs/<flow>.json`, written as it goes, read by `dihal status`.

It names the process and the key of every unit, so that manifests and locks alone tell how far a run is,
also after a kill and after an edit of the code. It changes no result and no key.
"""

import datetime
import logging
import os
import platform
import time
from pathlib import Path
from typing import Any

import psutil

from dihal_core.files import dump_json, write_atomically
from dihal_core.history import Json, read_result
from dihal_core.remote.link import share_journal

log = logging.getLogger(__name__)

RUNS = "runs"
EARLIER = 20
"""Earlier runs of the flow whose process is remembered."""
SHARED_EVERY_S = 15.0
"""Seconds between two uploads to a remote home while units are asked for; begin, stages and end are told at once."""


class RunJournal:
    """Writer of one run's journal.

    Parameters
    ----------
    folder
        Folder of the study.
    flow, stages
        Name of the flow and its stages in order.
    settings
        All settings of the study.
    flow_run
        `{"id", "name"}` of the Prefect flow run; empty without one.
    """

    def __init__(self, folder: Path, flow: str, stages: tuple[str, ...], settings: Json, flow_run: Json):
        self.path = folder / RUNS / f"{flow}.json"
        before = read_result(self.path) or {}
        earlier = [before["process"], *before.get("earlier", [])] if "process" in before else []
        self.content: Json = {
            "format": 1,
            "study": folder.name,
            "flow": flow,
            "order": list(stages),
            "stages": {stage: {"units": None, "keys": {}} for stage in stages},
            "settings": settings,
            "state": "running",
            "message": None,
            "started": now(),
            "process": {
                "host": platform.node(),
                "pid": os.getpid(),
                "created": psutil.Process().create_time(),
                "place": process_place(),
                "flow_run": flow_run.get("id"),
                "flow_run_name": flow_run.get("name"),
            },
            "earlier": earlier[:EARLIER],
            "steps": 0,
        }
        self._shared_at = 0.0
        self._write()

    def expect(self, stage: str, units: int) -> None:
        """Note that `stage` begins and how many units it has."""
        if stage not in self.content["stages"]:  # a variant of one
            self.content["order"].append(stage)
            self.content["stages"][stage] = {"units": None, "keys": {}}
        self.content["stages"][stage]["units"] = units
        self._write()

    def note(self, stage: str, label: str, store_stage: str, key: str) -> None:
        """Note that unit `label` of `stage` is asked for; its store is `<home>/<store_stage>/<key>`."""
        self.content["stages"][stage]["keys"][label] = f"{store_stage}/{key}"
        self._write(SHARED_EVERY_S)

    def close(self, state: str, message: str | None = None) -> None:
        """Note how the run ended: `finished`, `partial` or `failed`."""
        self.content.update(state=state, message=message, ended=now())
        self._write()

    def _write(self, unless_within_s: float = 0.0) -> None:
        self.content["steps"] += 1
        try:
            write_atomically(self.path, dump_json(self.content), durable=False)
        except OSError as error:  # a view of the run must not end it, nor hide what does: manifests hold the truth
            log.warning(
                "the journal %s cannot be written (%s); `dihal status` tells from manifests alone", self.path, error
            )
            return
        if time.monotonic() - self._shared_at >= unless_within_s:
            share_journal(self.path)
            self._shared_at = time.monotonic()


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def process_place() -> str:
    """Return what tells this machine and container from others of the same host name; empty where nothing does."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def process_alive(process: dict[str, Any]) -> bool | None:
    """Return whether the process of a journal lives; None if it ran on another host, where nobody can look."""
    if process.get("host") != platform.node():
        return None
    try:
        found = psutil.Process(int(process["pid"]))
        return found.status() != psutil.STATUS_ZOMBIE and abs(found.create_time() - process["created"]) < 2
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False
