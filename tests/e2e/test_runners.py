"""The smoke study on a local Dask and a local Ray cluster of two workers: the stores of one process, digest by digest."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows import server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
MODULES = {"dask": "prefect_dask", "ray": "prefect_ray"}
engines = pytest.mark.parametrize("runner", ["dask", "ray"])


def command(home: Path, runner: str, *settings: str) -> list[str]:
    words = [sys.executable, "-m", "flows.cli", "study", "--profile", "smoke", "--home", str(home)]
    return [*words, "--set", f"compute.runner={runner}", *settings]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A real server of its own, and the variables under which a command finds it."""
    home = tmp_path_factory.mktemp("server")
    said: list[str] = []
    url = server.ensure_server(home, said.append, server.free_port(4900))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    yield {**clean, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": url}
    server.stop_all(home, said.append)


def study(environment: dict[str, str], home: Path, runner: str, *settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(home, runner, *settings),
        cwd=home.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=420,
    )


def started(words: list[str], environment: dict[str, str], log) -> subprocess.Popen[bytes]:
    """Start a command that heeds Ctrl-C whatever this process does with it (nohup and CI may ignore it)."""
    return subprocess.Popen(
        words,
        cwd=Path(log.name).parent,
        env=environment,
        stdout=log,
        stderr=log,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def digests(home: Path) -> set[tuple[str, str, str]]:
    """(stage/unit, key, digest) of every store except the report, which shows every setting."""
    found = set()
    for manifest in home.glob("*/*/manifest.json"):
        data = json.loads(manifest.read_bytes())
        if data["stage"] != "report":
            found.add((f"{data['stage']}/{data['unit']}", data["key"], data["digest"]))
    return found


@pytest.fixture(scope="module")
def one_process(environment, tmp_path_factory):
    home = tmp_path_factory.mktemp("threads") / "runs"
    done = study(environment, home, "threads")
    assert done.returncode == 0, done.stdout + done.stderr
    return home


@engines
def test_a_cluster_of_two_workers_makes_the_stores_of_one_process(environment, one_process, tmp_path, runner):
    pytest.importorskip(MODULES[runner])
    home = tmp_path / "runs"
    done = study(environment, home, runner, "compute.dump_workers=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert digests(home) == digests(one_process)
    folder = next((home / "studies").iterdir())
    theirs, ours = (
        json.loads((path / "study.json").read_bytes()) for path in (folder, next((one_process / "studies").iterdir()))
    )
    assert theirs["answer"] == ours["answer"]
    ledger = json.loads((folder / "ledger.json").read_bytes())
    assert ledger["peak_memory_bytes"] > 5e8  # the workers' torch counts too


@engines
def test_a_failing_layer_gives_the_partial_result_of_one_process(environment, one_process, tmp_path, runner):
    pytest.importorskip(MODULES[runner])
    told = {}
    for kind in ("threads", runner):
        home = tmp_path / kind / "runs"
        shutil.copytree(one_process, home)
        for store in (home / "sweep").glob("L0[12]-*"):
            shutil.rmtree(store)
            if store.name.startswith("L02"):
                store.with_name(f"{store.name}.partial").write_text("a file where the store's folder should be")
        done = study(environment, home, kind)
        assert done.returncode == 3, done.stdout + done.stderr
        result = json.loads((next((home / "studies").iterdir()) / "study.json").read_bytes())
        failed = [line.replace(str(home), "") for line in done.stdout.splitlines() if line.startswith("MISSING")]
        told[kind] = (result["answer"], result["results"]["agreement"], failed, digests(home))
    assert told[runner] == told["threads"]
    assert len(told["threads"][2]) == 1
    assert told["threads"][2][0].startswith("MISSING L02")


@engines
def test_an_interrupted_study_leaves_no_process_and_goes_on_where_it_stopped(
    environment, one_process, tmp_path, runner
):
    pytest.importorskip(MODULES[runner])
    home = tmp_path / "runs"
    with open(tmp_path / "log", "w", encoding="utf-8") as log:
        flow = started(command(home, runner), environment, log)
    deadline, family = time.monotonic() + 240, set()
    while not list(home.glob("geometry/*/manifest.json")):
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        assert flow.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.1)
    family = set(psutil.Process(flow.pid).children(recursive=True))
    assert family
    flow.send_signal(signal.SIGINT)
    assert flow.wait(90) == 130, (tmp_path / "log").read_text()
    assert "the same command goes on where it stopped" in (tmp_path / "log").read_text()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    done = study(environment, home, runner)
    assert done.returncode == 0, done.stdout + done.stderr
    assert digests(home) == digests(one_process)


@engines
def test_a_killed_flow_takes_its_workers_with_it(environment, tmp_path, runner):
    pytest.importorskip(MODULES[runner])
    home = tmp_path / "runs"
    with open(tmp_path / "log", "w", encoding="utf-8") as log:
        flow = started(command(home, runner), environment, log)
    deadline = time.monotonic() + 240
    while not list(home.glob("corpus/*/manifest.json")):
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.1)
    family = set(psutil.Process(flow.pid).children(recursive=True))
    flow.kill()
    flow.wait(10)
    _, alive = psutil.wait_procs(family, timeout=150)  # Ray's two agents take over a minute to notice
    assert not alive
