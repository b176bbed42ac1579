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
        help="also list (with --delete: remove) runs of our flows that ended more than DAYS ago, on the server",
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
    from dihal_core.housekeeping import DEFAULT_AGE_DAYS
    from dihal_core.remote.address import remote_address
    from dihal_core.store import resolve_home

    home = resolve_home(arguments.home)
    address = remote_address(home)
    os.environ["DIHAL_HOME"] = address or str(home)
    age = DEFAULT_AGE_DAYS if arguments.older_than is None else arguments.older_than
    for name, days in (("--older-than", age), ("--prefect-days", arguments.prefect_days)):
        if days is not None and not days >= 0:
            raise ConfigError(f"{name} {days:g} is no age; give days, 0 or more")
    rows = _local_rows(home, age, arguments.delete) if address is None else _remote_rows(address, age, arguments.delete)
    runs = _old_runs(home, arguments.prefect_days, arguments.delete) if arguments.prefect_days is not None else None
    if arguments.json:
        print(json.dumps({"home": address or str(home), "stores": rows, "prefect": runs}, indent=1))
        return 0
    for row in rows:
        fate = "in use, kept" if row["held"] else "removed" if row["removed"] else "kept" if arguments.delete else ""
        size = f"{row['bytes'] / 1e6:>10.1f} MB {row['age_days']:>7.1f} days"
        print(f"{size}  {row['kind']:<11} {row['store']}  {fate}".rstrip())
    print(_summary(address or str(home), rows, arguments.delete, age))
    if runs is not None:
        print(_runs_sentence(runs, arguments.delete))
    return 0


def _local_rows(home: Path, age: float, delete: bool) -> list[dict[str, Any]]:
    from dihal_core.housekeeping import leftovers, remove

    found = leftovers(home, age)
    removed = remove(home, [item for item in found if not item.held]) if delete else []
    return [
        {
            **dataclasses.asdict(item),
            "path": str(item.path),
            "store": str(item.path.relative_to(home)),
            "removed": item in removed,
        }
        for item in found
    ]


def _remote_rows(address: str, age: float, delete: bool) -> list[dict[str, Any]]:
    from dihal_core.remote.unused import remove, unused

    found = unused(address, age)
    removed = remove(address, found) if delete else []
    return [
        {
            "path": f"{address}/{item.name}",
            "store": item.name,
            "kind": item.kind,
            "bytes": item.bytes,
            "age_days": item.age_days,
            "objects": len(item.objects),
            "held": False,
            "removed": item in removed,
        }
        for item in found
    ]


def _summary(home: str, rows: list[dict[str, Any]], delete: bool, age: float) -> str:
    if not rows:
        return f"{home}: every store older than {age:g} days is needed by a study"
    if delete:
        removed = [row for row in rows if row["removed"]]
        return f"removed {len(removed)} of {len(rows)}, {sum(row['bytes'] for row in removed) / 1e6:.1f} MB"
    free = [row for row in rows if not row["held"]]
    return (
        f"{len(free)} that no study refers to and nobody is making, {sum(row['bytes'] for row in free) / 1e6:.1f} MB; "
        "nothing was removed (`dihal gc --delete` removes them)"
    )


def _old_runs(home: Path, days: float, delete: bool) -> dict[str, Any]:
    from flows import retention, server

    url = os.environ.get("PREFECT_API_URL") or server.running_url(home)
    return retention.old_runs(home, url, days, delete)


def _runs_sentence(runs: dict[str, Any], delete: bool) -> str:
    said = f"{runs['found']} runs of our flows ended more than {runs['days']:g} days ago" + (
        f"; {runs['deleted']} removed" if delete else "; nothing was removed"
    )
    if runs["database"] is not None:
        said += (
            f"; {runs['database']} has {runs['database_bytes'] / 1e6:.1f} MB and shrinks only when it is rewritten: "
            f"`dihal down`, then `sqlite3 {runs['database']} VACUUM`"
        )
    return said


COMMANDS = {"gc": run}
