"""Is this machine ready? Each check says what to do when it fails. Imports no torch."""

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from dihal_core.config import StudySettings
from dihal_core.errors import DihalError
from dihal_core.estimates import stage_costs
from dihal_core.provenance import package_version
from dihal_core.remote.link import check_home
from dihal_core.requests import find
from dihal_core.study import request_for, units_of

PINS = {
    "prefect": ("3.8.8", "3.9"),
    "fastapi": ("0.139", "0.151"),
    "sqlalchemy": ("2.0", "2.1"),
    "torch": ("2.9", "3"),
    "transformers": ("5", "6"),
    "zarr": ("3.1", "4"),
}
"""Half-open ranges the project needs; outside them Prefect does not start or schedules nothing."""

Check = tuple[str, bool, str]


def _version(text: str) -> tuple[int, ...]:
    parts = []
    for part in text.split("+")[0].split("."):
        digits = "".join(c for c in part if c.isdigit())
        parts.append(int(digits) if digits else 0)
    return tuple(parts)


def check_python() -> Check:
    """Python 3.11 or newer."""
    return "python", sys.version_info >= (3, 11), f"{platform.python_version()} (needs 3.11 or newer)"


def check_pins() -> Check:
    """Versions of the libraries that break when they drift."""
    wrong = []
    for name, (low, high) in PINS.items():
        version = package_version(name)
        if version == "absent" or not _version(low) <= _version(version) < _version(high):
            wrong.append(f"{name} {version} (needs >={low},<{high})")
    return "pins", not wrong, "; ".join(wrong) + "; run `make install`" if wrong else "tested ranges"


def check_one_home() -> Check:
    """The three packages come from one place: another distribution may own a package called `tasks`."""
    homes = set()
    for name in ("flows", "tasks", "dihal_core"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            return "packages", False, f"{name} is not importable; run `make install`"
        homes.add(str(Path(spec.origin).parents[1]))
    return "packages", len(homes) == 1, ", ".join(sorted(homes)) + ("" if len(homes) == 1 else ": remove the stranger")


def check_disk(settings: StudySettings, home: Path) -> Check:
    """Room for all stores of the study."""
    needed = sum(cost["bytes"] for cost in stage_costs(settings).values())
    probe = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(probe).free
    writable = os.access(probe, os.W_OK)
    text = f"{free / 1e9:.1f} GB free under {probe}, the study writes about {needed / 1e9:.2f} GB"
    if not writable:
        return "disk", False, f"{probe} is not writable; set DIHAL_HOME"
    return "disk", needed <= 0.9 * free, text + ("" if needed <= 0.9 * free else "; set DIHAL_HOME to a larger disk")


def check_store(home: Path) -> Check:
    """Whether a remote home can be written; a local one is its folder."""
    try:
        address = check_home(home)
    except DihalError as error:
        return "store", False, str(error)
    return "store", True, f"{address} is writable, working copy {home}" if address else f"folder {home}"


def check_memory() -> Check:
    """The quickstart stays under 6 GB."""
    total = psutil.virtual_memory().total
    return "memory", total > 6e9, f"{total / 1e9:.1f} GB (the quickstart stays under 6 GB)"


def check_device() -> Check:
    """Whether an NVIDIA driver is there; never a failure."""
    found = Path("/dev/nvidiactl").exists()
    cores = os.cpu_count() or 1
    return "device", True, f"{'NVIDIA GPU driver found' if found else 'no GPU, CPU is used'}; {cores} cores"


def check_assets(settings: StudySettings, home: Path) -> Check:
    """Model and text assets fetched and intact."""
    units = units_of("assets", settings) or ()
    absent = []
    for unit in units:
        status = find(request_for("assets", settings, home, {}, unit))
        if status.record is None:
            absent.append(f"{unit} ({status.reason})")
    if absent:
        return "assets", False, f"{'; '.join(absent)}; run `dihal setup`"
    return "assets", True, f"{len(units)} of {len(units)} intact" if units else "none needed by this profile"


def checks(settings: StudySettings, home: Path) -> list[Check]:
    """Return (name, fine, text) of every check."""
    suite: list[Callable[[], Check]] = [
        check_python,
        check_pins,
        check_one_home,
        lambda: check_disk(settings, home),
        check_memory,
        check_device,
        lambda: check_store(home),
        lambda: check_assets(settings, home),
    ]
    results = []
    for check in suite:
        try:
            results.append(check())
        except DihalError as error:
            results.append((getattr(check, "__name__", "check"), False, str(error)))
    return results
