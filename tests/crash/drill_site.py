"""A server, a worker and the deployments as an operator has them, for drills; every run gets a home of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psutil
from prefect import flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Running
from prefect.variables import Variable

from dihal_core.inspection import inspect_store
from flows import server
from flows.hooks import NOTIFY_VARIABLE

PATIENCE_SECONDS = 600
TOLD_WITHIN_SECONDS = 120
"""What a drill grants until the state of a run tells the truth."""
SLOWED = {
    "sweep.training.epochs": 8.0,
    "sweep.training.max_steps": 40,
    "replace.training.epochs": 400.0,
    "replace.training.max_steps": 400,
}
"""Smoke settings under which the final training takes a while and saves many checkpoints."""


def until(told: Callable[[], Any], patience_s: float, what: str) -> Any:
    """Return the first true answer of `told`."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        answer = told()
        if answer:
            return answer
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen within {patience_s:.0f} s")


@flow(name="nightly-billing")
def foreign() -> int:
    """Stand for another project's flow on the same server."""
    return 1


class Site:
    """One server with one worker, everything deployed."""

    def __init__(self, project: Path, home: Path, port: int, environment: dict[str, str]):
        self.project, self.home, self.port = project, home, port
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
            "OMP_NUM_THREADS": "1",
            **environment,
        }

    def dihal(self, *words: str) -> str:
        """Run a `dihal` command of this home and return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *words, "--home", str(self.home)],
            cwd=self.project,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def up(self) -> None:
        """Start whatever does not run."""
        self.dihal("up", "--port", str(self.port))

    def notify(self, url: str) -> None:
        """Let what goes wrong be told at `url`."""
        with temporary_settings({PREFECT_API_URL: self.url}):
            body = {"subject": "{{subject}}", "body": "{{body}}"}
            CustomWebhookNotificationBlock(name="ops", url=url, json_data=body).save("drills", overwrite=True)
            Variable.set(NOTIFY_VARIABLE, "custom-webhook/drills", overwrite=True)

    @property
    def url(self) -> str:
        return str(server.running_url(self.home))

    @contextmanager
    def client(self) -> Iterator[SyncPrefectClient]:
        with temporary_settings({PREFECT_API_URL: self.url}), get_client(sync_client=True) as client:
            yield client

    def process(self, name: str) -> psutil.Process:
        """Return the detached `server` or `worker`."""
        return psutil.Process(json.loads((self.home / ".prefect" / f"{name}.json").read_bytes())["pid"])

    def kill(self, name: str) -> None:
        """Kill -9 the server or the worker, and nothing else."""
        process = self.process(name)
        process.kill()
        until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 20, f"end of {name}")

    def runs(self, name: str) -> bool:
        """Return True if the server or the worker is alive."""
        try:
            process = self.process(name)
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except (OSError, psutil.Error):
            return False

    def start(self, home: Path, overrides: dict[str, Any] | None = None) -> UUID:
        """Ask for a smoke study in `home` and return the id of its flow run; an earlier drill may have ended midway."""
        if not (self.runs("server") and self.runs("worker")):
            self.up()
        with self.client() as client:
            deployment = client.read_deployment_by_name("dihal/full-study")
            variables = {"env": {**deployment.job_variables["env"], "DIHAL_HOME": str(home)}}
            parameters = {"profile": "smoke", "overrides": SLOWED if overrides is None else overrides}
            return client.create_flow_run_from_deployment(
                deployment.id, parameters=parameters, job_variables=variables
            ).id

    def state(self, run: UUID) -> State[Any]:
        with self.client() as client:
            state = client.read_flow_run(run).state
        assert state is not None
        return state

    def finished(self, run: UUID, patience_s: float = PATIENCE_SECONDS) -> State[Any]:
        """Wait for a final state."""
        return until(lambda: (lambda s: s if s.is_final() else None)(self.state(run)), patience_s, f"the end of {run}")

    def told(self, run: UUID, since: float) -> tuple[State[Any], float]:
        """Return the final state and how many seconds after `since` (monotonic) the server knew it."""
        state = self.finished(run, TOLD_WITHIN_SECONDS - (time.monotonic() - since))
        return state, time.monotonic() - since

    def retry(self, run: UUID) -> State[Any]:
        """`prefect flow-run retry`, and the state it ends in."""
        before = self.state(run).id
        done = server.prefect(self.home, self.url, "flow-run", "retry", str(run))
        assert done.returncode == 0, done.stdout + done.stderr
        until(lambda: self.state(run).id != before, 60, "the retry")
        return self.finished(run)

    def task_states(self, run: UUID) -> dict[str, str]:
        """Return the state of every task run by name; several attempts of one task: the last one asked for."""
        with self.client() as client:
            chosen = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
            return {
                task.name: str(task.state_name) for task in client.read_task_runs(flow_run_filter=chosen, limit=200)
            }

    def task_counts(self, run: UUID) -> str:
        """Return in which states the task runs of all attempts of a run are, as the server has them: `2 Completed, 1 Failed`."""
        with self.client() as client:
            chosen = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
            states = Counter(str(task.state_name) for task in client.read_task_runs(flow_run_filter=chosen, limit=200))
        return ", ".join(f"{count} {name}" for name, count in sorted(states.items()))

    def foreign_run(self) -> UUID:
        """Return a run of a flow that is not ours, which sent one heartbeat and then none."""
        with self.client() as client:
            run = client.create_flow_run(foreign, state=Running())
        flow = {
            "prefect.resource.id": f"prefect.flow.{run.flow_id}",
            "prefect.resource.role": "flow",
            "prefect.resource.name": foreign.name,
        }
        heartbeat = {
            "event": "prefect.flow-run.heartbeat",
            "occurred": datetime.now(UTC).isoformat(),
            "id": str(uuid4()),
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run.id}"},
            "related": [flow],
            "payload": {},
        }
        httpx.post(f"{self.url}/events", json=[heartbeat], trust_env=False).raise_for_status()
        return run.id

    def flow_process(self, home: Path) -> psutil.Process:
        """Return the process that runs the flow in `home` (the one that a kill hits)."""

        def found() -> psutil.Process | None:
            for process in psutil.process_iter(["cmdline"]):
                words = " ".join(process.info["cmdline"] or ())
                try:
                    if "prefect" in words and "engine" in words and process.environ().get("DIHAL_HOME") == str(home):
                        return process
                except psutil.Error:
                    continue
            return None

        return until(found, 60, f"a flow process in {home}")


def saved_work(home: Path, stage: str) -> list[Path]:
    """Return commit records and checkpoints of unfinished stores of `stage`."""
    patterns = ("*.partial/commits/*.json", "*.partial/checkpoint*")
    return [path for pattern in patterns for path in (home / stage).glob(pattern)]


def wait_for_work(home: Path, stage: str) -> None:
    """Wait until `stage` has saved some work."""
    until(lambda: saved_work(home, stage), PATIENCE_SECONDS, f"saved work of {stage}")


def digests(home: Path) -> dict[str, str]:
    """Return `{stage/unit: digest}` of every finished store but the report, which tells the time."""
    manifests = (json.loads(path.read_bytes()) for path in home.glob("*/*/manifest.json"))
    return {f"{m['stage']}/{m['unit']}": m["digest"] for m in manifests if m["stage"] != "report"}


def lacking(home: Path, wanted: dict[str, str]) -> list[str]:
    """Return the names of `wanted` that no store of `home` has with the same digest (a unit may have several stores)."""
    manifests = [json.loads(path.read_bytes()) for path in home.glob("*/*/manifest.json")]
    have = {(f"{m['stage']}/{m['unit']}", m["digest"]) for m in manifests}
    return sorted(name for name, digest in wanted.items() if (name, digest) not in have)


def torn_stores(home: Path) -> list[str]:
    """Return every finished store that is not intact, file by file."""
    found = []
    for manifest in home.glob("*/*/manifest.json"):
        folder = manifest.parent
        if not folder.name.endswith(".partial"):
            status = inspect_store(home, folder.parent.name, folder.name, full=True)
            if status.state != "intact":
                found.append(f"{folder}: {status.reason}")
    return found


def stop(process: psutil.Process, kind: signal.Signals) -> float:
    """Send a signal; return the moment (monotonic)."""
    process.send_signal(kind)
    return time.monotonic()
