"""How far every study of a home is, from manifests, locks and journals alone: no server, no hashing, no torch.

Of a remote home it tells what all machines did; that something is being made at this moment shows on its maker's only.
"""

import contextlib
import fcntl
from pathlib import Path
from typing import Any

from dihal_core.errors import NetworkError
from dihal_core.files import MANIFEST
from dihal_core.history import Json, read_result
from dihal_core.journal import RUNS, process_alive
from dihal_core.remote.link import home_uri, pull_journals, state_elsewhere

NEEDED = {"study", "flow", "state", "order", "stages", "process", "settings", "started"}
"""What a journal must hold to be read; others are of another version."""


def lock_held(home: Path, stage: str, key: str) -> bool:
    """Return whether a living process is making `<home>/<stage>/<key>` now (locks die with their holder)."""
    try:
        with open(home / stage / f".{key}.lock") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            fcntl.flock(handle, fcntl.LOCK_UN)
    except OSError:
        pass  # no lock file: nobody ever made it here
    return False


def store_state(home: Path, store: str, elsewhere: bool = True) -> Json:
    """Return `{"state", "committed"}` of a store `stage/key`: done, running, partial or absent.

    `done` means that its manifest is there; its files are not hashed. `committed` counts the units of work that a
    resume will find. With `elsewhere` a remote home is asked for what this machine does not have.

    Raises
    ------
    NetworkError, ResourceError
        If a remote home cannot be asked.
    """
    stage, _, key = store.partition("/")
    if (home / stage / key / MANIFEST).is_file():
        return {"state": "done", "committed": 0}
    partial = home / stage / f"{key}.partial"
    commits = sum(1 for _ in (partial / "commits").glob("*.json")) if partial.is_dir() else 0
    if lock_held(home, stage, key):
        return {"state": "running", "committed": commits}
    state = "partial" if partial.is_dir() else "absent"
    there, kept = state_elsewhere(home, stage, key) if elsewhere else ("absent", 0)
    return {"state": state if there == "absent" else there, "committed": 0 if there == "done" else max(commits, kept)}


def stage_status(home: Path, stage: str, facts: Json, elsewhere: bool = True) -> Json:
    """Return one stage of a run: its state, counts of units by state, committed work, what is being made."""
    found = {label: store_state(home, store, elsewhere) for label, store in facts["keys"].items()}
    counts = {state: sum(item["state"] == state for item in found.values()) for state in ("done", "running", "partial")}
    units = max(facts["units"] if facts["units"] is not None else 0, len(found))
    begun = facts["units"] is not None
    if counts["running"]:
        state = "running"
    elif begun and counts["done"] == units:
        state = "done"
    else:
        state = "partial" if counts["partial"] or counts["done"] else "absent"
    return {
        "stage": stage,
        "state": state,
        "units": units if begun else None,
        **counts,
        "committed": sum(item["committed"] for item in found.values()),
        "running_units": sorted(label for label, item in found.items() if item["state"] == "running"),
    }


def run_status(home: Path, journal: Json, elsewhere: bool = True) -> Json:
    """Return what is true of the last run of a study."""
    stages = [stage_status(home, name, journal["stages"][name], elsewhere) for name in journal["order"]]
    process = journal["process"]
    alive = process_alive(process)
    state, message = journal["state"], journal.get("message")
    if state == "running" and alive is False:
        state, message = "stopped", f"its process {process['pid']} is gone; the same command resumes where it stopped"
    elif state == "running" and alive is None:
        state, message = "unknown", f"it runs or ran on {process['host']}; ask there"
    return {
        "study": journal["study"],
        "flow": journal["flow"],
        "state": state,
        "message": message,
        "profile": journal["settings"]["profile"],
        "backbone": journal["settings"]["backbone"]["name"],
        "revision": journal["settings"]["backbone"].get("revision"),
        "seed": journal["settings"]["seed"],
        "device": journal["settings"]["compute"]["device"],
        "started": journal["started"],
        "ended": journal.get("ended"),
        "difference": journal.get("difference"),
        "process": process,
        "journal": str(home / "studies" / journal["study"] / RUNS / f"{journal['flow']}.json"),
        "stages": stages,
    }


def journals_of(home: Path) -> list[Json]:
    """Return the journals of all studies and flows, the one started last first; unreadable ones are left out."""
    found = [read_result(path) for path in (home / "studies").glob(f"*/{RUNS}/*.json")]
    known = [item for item in found if item is not None and set(item) >= NEEDED]
    return sorted(known, key=lambda item: item["started"], reverse=True)


def home_status(home: Path) -> Json:
    """Return `{"home", "studies", "other", "missed"}`; `other` are unfinished stores that belong to no study's last run.

    `missed` says why a remote home could not be asked, None if it was: then only this machine's part is told.

    Raises
    ------
    ResourceError, ConfigError
        If permission for a remote home is denied, or its address cannot be used.
    """
    missed = pull_journals(home)
    journals = journals_of(home)
    listed = {store for item in journals for facts in item["stages"].values() for store in facts["keys"].values()}
    older = {path.parent.name for path in (home / "studies").glob("*/*.json")} - {item["study"] for item in journals}
    other: list[Json] = []
    for partial in sorted(home.glob("*/*.partial")):
        store = f"{partial.parent.name}/{partial.name.removesuffix('.partial')}"
        if store not in listed:
            other.append({"store": store, **store_state(home, store, elsewhere=False)})
    studies: list[Json] = []
    for item in journals:
        with contextlib.suppress(KeyError, TypeError, AttributeError):  # a journal of another version
            try:
                studies.append(run_status(home, item, elsewhere=missed is None))
            except NetworkError as error:
                missed = str(error)
                studies.append(run_status(home, item, elsewhere=False))
    return {
        "home": home_uri(home),
        "studies": studies,
        "without_journal": sorted(older),
        "other": other,
        "missed": missed,
    }


def untrue_runs(home: Path, running: list[dict[str, Any]]) -> list[Json]:
    """Return the flow runs that Prefect calls running although their process is gone.

    Parameters
    ----------
    running
        `{"id", "name", "state"}` of flow runs that Prefect calls running or cancelling.
    """
    processes = {
        process.get("flow_run"): (item["study"], process)
        for item in reversed(journals_of(home))
        for process in (*item.get("earlier", []), item["process"])
    }
    found = []
    for run in running:
        if run["id"] in processes:
            study, process = processes[run["id"]]
            if process_alive(process) is False:
                found.append({**run, "study": study, "pid": process["pid"]})
    return found


def format_status(status: Json) -> str:
    """Return the status as text for the terminal."""
    lines = [f"home {status['home']}"]
    if status["missed"]:
        lines.append(f"only what this machine knows of it: {status['missed']}")
    if not status["studies"]:
        lines.append("no study was run here yet; `dihal study` starts one")
    for study in status["studies"]:
        message = f": {study['message']}" if study["message"] else ""
        lines += [
            "",
            f"{study['study']}  [{study['state']}]{message}",
            f"  {study['flow']} of {study['backbone']}, profile {study['profile']}, seed {study['seed']}, "
            f"{study['device']}; started {study['started']}; settings in {study['journal']}",
        ]
        if study["difference"]:
            lines.append(f"  since the previous study: {study['difference']}")
        if study["state"] == "finished" and all(row["state"] == "done" for row in study["stages"]):
            lines.append(f"  all {len(study['stages'])} stages done")
            continue
        for row in study["stages"]:
            units = "" if row["units"] is None else f"{row['done']}/{row['units']}"
            more = f", making {', '.join(row['running_units'][:6])}" if row["running_units"] else ""
            more += f", {row['partial']} interrupted" if row["partial"] else ""
            more += f", {row['committed']} committed pieces of them are kept" if row["committed"] else ""
            lines.append(f"  {row['stage']:<24} {row['state']:<8} {units}{more}")
    if status["without_journal"]:
        lines += ["", f"studies of an earlier version, finished: {', '.join(status['without_journal'])}"]
    for item in status["other"]:
        lines.append(
            f"unfinished store of no listed run: {item['store']} [{item['state']}], {item['committed']} pieces kept"
        )
    for run in status.get("untrue", []):
        lines.append(
            f"Prefect says {run['state']} but nothing runs: flow run {run['name']} ({run['id']}), its process {run['pid']} "
            f"is gone; the next run of study {run['study']} resumes"
        )
    if status.get("server"):
        lines += ["", status["server"]]
    return "\n".join(lines)
