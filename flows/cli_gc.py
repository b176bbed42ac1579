"""`dihal gc`: stores no study refers to, and old flow runs of the Prefect database. Dry run unless `--delete`."""

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any


def register(commands: Any) -> None:
    """Add the command to the parser of `dihal`."""
    parser = commands.add_parser("gc", help="list stores no study refers to (dry run); --delete removes them")
    parser.add_argument("--home", default=None, help="folder of all stores (default: $DIHAL_HOME or ./runs)")
    parser.add_argument("--delete", action="store_true", help="remove what is listed")
    parser.add_argument(
        "--older-than",
        type=float,
        default=None,
        metavar="DAYS",
        help="leave out what was written less than DAYS ago (default: 7)",
    )
    parser.add_argument(
        "--prefect-days",
        type=float,
        default=None,
        metavar="DAYS",
        help="also list (with --delete: remove) flow runs of this home's server that ended more than DAYS ago",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """List, and with `--delete` remove; returns 0.

    Raises
    ------
    ConfigError
        For a negative age.
    ArtifactError, ResourceError
        If what studies refer to cannot be read, or a study is running.
    """
    from dihal_core.errors import ConfigError
    from dihal_core.housekeeping import DEFAULT_AGE_DAYS, leftovers, remove
    from dihal_core.remote.address import remote_address
    from dihal_core.store import resolve_home

    home = resolve_home(arguments.home)
    address = remote_address(home)
    if address is not None:
        raise ConfigError(
            f"`dihal gc` works on folders, not on {address}: other machines may be using its stores; `dihal leftovers` "
            f"removes what killed uploads left there, and the working copy {home} may be deleted whenever no study runs"
        )
    os.environ["DIHAL_HOME"] = str(home)
    age = DEFAULT_AGE_DAYS if arguments.older_than is None else arguments.older_than
    for name, days in (("--older-than", age), ("--prefect-days", arguments.prefect_days)):
        if days is not None and not days >= 0:
            raise ConfigError(f"{name} {days:g} is no age; give days, 0 or more")
    found = leftovers(home, age)
    removed = remove(home, [leftover for leftover in found if not leftover.held]) if arguments.delete else []
    runs = _old_runs(home, arguments.prefect_days, arguments.delete) if arguments.prefect_days is not None else None
    if arguments.json:
        rows = [{**dataclasses.asdict(item), "path": str(item.path), "removed": item in removed} for item in found]
        print(json.dumps({"home": str(home), "stores": rows, "prefect": runs}, indent=1))
        return 0
    for item in found:
        fate = "in use, kept" if item.held else "removed" if item in removed else "kept" if arguments.delete else ""
        place = item.path.relative_to(home)
        print(f"{item.bytes / 1e6:>10.1f} MB {item.age_days:>7.1f} days  {item.kind:<10} {place}  {fate}".rstrip())
    print(_summary(home, found, removed, arguments.delete, age))
    if runs is not None:
        print(_runs_sentence(runs, arguments.delete))
    return 0


def _summary(home: Path, found: list[Any], removed: list[Any], delete: bool, age: float) -> str:
    if not found:
        return f"{home}: every store older than {age:g} days is needed by a study"
    if delete:
        return f"removed {len(removed)} of {len(found)}, {sum(item.bytes for item in removed) / 1e6:.1f} MB"
    free = [item for item in found if not item.held]
    return (
        f"{len(free)} that no study refers to and nobody is making, {sum(item.bytes for item in free) / 1e6:.1f} MB; "
        "nothing was removed (`dihal gc --delete` removes them)"
    )


def _old_runs(home: Path, days: float, delete: bool) -> dict[str, Any]:
    from flows import retention, server

    url = os.environ.get("PREFECT_API_URL") or server.running_url(home)
    return retention.old_runs(home, url, days, delete)


def _runs_sentence(runs: dict[str, Any], delete: bool) -> str:
    said = f"{runs['found']} flow runs ended more than {runs['days']:g} days ago" + (
        f"; {runs['deleted']} removed" if delete else "; nothing was removed"
    )
    if runs["database"] is not None:
        said += (
            f"; {runs['database']} has {runs['database_bytes'] / 1e6:.1f} MB and shrinks only when it is rewritten: "
            f"`dihal down`, then `sqlite3 {runs['database']} VACUUM`"
        )
    return said


COMMANDS = {"gc": run}
