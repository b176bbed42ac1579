"""Workers of a cluster that is not the flow's own: stopping the flow stops their tasks, and their work is kept."""

import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Crashed

from dihal_core.status import home_status
from flows import server
from tasks.cancellation import ASK_SECONDS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
LONG_TRAINING = [
    "replace.training.epochs=4000",
    "replace.training.max_steps=20000",
    "sweep_layers=none",
]
STOPPED_WITHIN_SECONDS = 30
ENDED_WITHIN_SECONDS = 60
DASK = """
import sys, time
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1",
                           dashboard_address=None, memory_limit=0)
    print(cluster.scheduler_address, flush=True)
    sys.stdin.read()
    cluster.close()
"""
RAY = """
import sys
import ray
context = ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20)
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
ray.shutdown()
"""
CLUSTERS = {"dask": (DASK, "prefect_dask"), "ray": (RAY, "prefect_ray")}


@contextmanager
def cluster(runner: str, environment: dict[str, str], folder: Path):
    """Two worker processes under a scheduler of their own; yields its address."""
    script = folder / f"{runner}_cluster.py"
    script.write_text(CLUSTERS[runner][0])
    with open(folder / "cluster-log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, str(script)],
            cwd=folder,
            env={**environment, "RAY_USAGE_STATS_ENABLED": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        address = ""
        while not address.rpartition(":")[2].isdigit():  # other lines may come first
            address = process.stdout.readline().strip()
            assert process.poll() is None, (folder / "cluster-log").read_text()
        yield address
    finally:
        process.stdin.close()
        process.wait(60)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A real server of its own, and the variables under which a command finds it."""
    home = tmp_path_factory.mktemp("server")
    said: list[str] = []
    url = server.ensure_server(home, said.append, server.free_port(int(os.environ.get("DIHAL_TEST_PORT", "4920"))))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    # Ray lets nobody in without the token of its cluster.
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    yield {**clean, **token, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": url, "OMP_NUM_THREADS": "1"}
    server.stop_all(home, said.append)


def training(home: Path) -> str:
    """State of the stage `replace`: running as long as a process holds its lock."""
    (run,) = home_status(home)["studies"]
    return next(stage["state"] for stage in run["stages"] if stage["stage"] == "replace")


def steps_saved(home: Path) -> list[tuple[str, int]]:
    """Checkpoints of the unfinished training, with the moment they were written."""
    return [(path.name, path.stat().st_mtime_ns) for path in home.glob("replace/*.partial/checkpoint*")]


def until(told, patience_s: float, what: str) -> float:
    """Wait for a true answer; return how long that took."""
    began = time.monotonic()
    while not told():
        assert time.monotonic() - began < patience_s, f"{what} did not happen within {patience_s:.0f} s"
        time.sleep(0.1)
    return time.monotonic() - began


def call_it(state: State[Any], url: str, home: Path) -> None:
    (run,) = home_status(home)["studies"]
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(run["process"]["flow_run"]), state, force=True)


def server_run(url: str, home: Path) -> FlowRun:
    (run,) = home_status(home)["studies"]
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        return client.read_flow_run(UUID(run["process"]["flow_run"]))


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "kill -9"])
@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_stopped_flow_stops_its_task_on_a_worker_elsewhere_and_keeps_the_steps(environment, tmp_path, runner, kind):
    pytest.importorskip(CLUSTERS[runner][1])
    home = tmp_path / "runs"
    words = [sys.executable, "-m", "flows.cli", "study", "--profile", "smoke", "--home", str(home)]
    words += ["--set", f"compute.runner={runner}", *LONG_TRAINING]
    with (
        cluster(runner, environment, tmp_path) as address,
        open(tmp_path / "flow-log", "w", encoding="utf-8") as log,
    ):
        flow = subprocess.Popen(
            [*words, f"compute.runner_address={address}"],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        until(lambda: steps_saved(home) or flow.poll() is not None, 240, "a saved step of the training")
        assert flow.poll() is None, (tmp_path / "flow-log").read_text()
        assert training(home) == "running"
        began = time.monotonic()
        flow.send_signal(kind)
        flow.wait(60)
        if kind == signal.SIGKILL:  # what the automation `dihal-dead-runs` says after 80 seconds without a heartbeat
            call_it(Crashed(), environment["PREFECT_API_URL"], home)
        until(lambda: training(home) == "partial", STOPPED_WITHIN_SECONDS + ASK_SECONDS, "the end of the task")
        seconds = time.monotonic() - began
        print(f"{runner} {kind.name}: the task ended after {seconds:.0f} s, {steps_saved(home)} saved")
        assert seconds < STOPPED_WITHIN_SECONDS or kind == signal.SIGKILL
        kept = steps_saved(home)
        assert kept
        time.sleep(3)
        assert steps_saved(home) == kept, "nobody works on it any more"


@pytest.mark.parametrize("runner", ["threads", "dask", "ray"])
def test_a_run_cancelled_where_no_worker_kills_its_process_ends_cancelled_with_its_task(environment, tmp_path, runner):
    home = tmp_path / "runs"
    words = [sys.executable, "-m", "flows.cli", "study", "--profile", "smoke", "--home", str(home), "--set"]
    if runner != "threads":
        pytest.importorskip(CLUSTERS[runner][1])
        words += [f"compute.runner={runner}", "compute.runner_workers=2"]
    words += LONG_TRAINING
    with open(tmp_path / "flow-log", "w", encoding="utf-8") as log:
        flow = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: steps_saved(home) or flow.poll() is not None, 240, "a saved step of the training")
        assert flow.poll() is None, (tmp_path / "flow-log").read_text()
        call_it(Cancelling(), environment["PREFECT_API_URL"], home)
        seconds = until(lambda: flow.poll() is not None, ENDED_WITHIN_SECONDS, "the end of the flow")
    finally:
        if flow.poll() is None:
            os.killpg(flow.pid, signal.SIGKILL)
            flow.wait()
    said = (tmp_path / "flow-log").read_text()
    run = server_run(environment["PREFECT_API_URL"], home)
    print(f"{runner}: exit {flow.returncode} after {seconds:.0f} s, {run.state.name}: {run.state.message}")
    assert run.state.name == "Cancelled", said[-3000:]
    assert flow.returncode == 130, said[-3000:]
    assert "Traceback" not in said
    assert "goes on where it stopped" in said.splitlines()[-1]
    assert training(home) == "partial"
    assert steps_saved(home)
