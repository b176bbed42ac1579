"""kill -9 in the middle of a stage, then the same command again: the same numbers as an undisturbed run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

BIGGER = ["activations.num_sequences=48", "sweep.training.max_steps=4"]


def command(home: Path) -> list[str]:
    return [sys.executable, "-m", "flows.cli", "study", "--profile", "smoke", "--home", str(home), "--set", *BIGGER]


def environment(url: str) -> dict[str, str]:
    return {**os.environ, "PREFECT_API_URL": url}


def finish(home: Path, url: str) -> dict[str, str]:
    done = subprocess.run(command(home), env=environment(url), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = {}
    for manifest in home.glob("*/*/manifest.json"):
        data = json.loads(manifest.read_bytes())
        if data["stage"] != "report":
            found[f"{data['stage']}/{data['unit']}"] = data["digest"]
    return found


def kill_when(home: Path, url: str, stage: str, delay_s: float) -> bool:
    """Start the study and kill -9 its process group `delay_s` after the stage began; False if it was faster."""
    process = subprocess.Popen(
        command(home),
        env=environment(url),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and process.poll() is None:
            if list((home / stage).glob("*.partial")):
                time.sleep(delay_s)
                break
            time.sleep(0.002)
        was_running = process.poll() is None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return was_running


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, prefect_server):
    return finish(tmp_path_factory.mktemp("undisturbed") / "runs", prefect_server)


@pytest.mark.parametrize("stage", ["corpus", "activations", "geometry", "sweep", "replace", "evaluate"])
def test_a_kill_in_the_middle_of_a_stage_changes_no_number(stage, tmp_path, undisturbed, prefect_server):
    home = tmp_path / "runs"
    moments = random.Random(stage)
    assert kill_when(home, prefect_server, stage, moments.uniform(0.0, 0.05))
    assert finish(home, prefect_server) == undisturbed


def test_a_kill_in_every_stage_in_turn_changes_no_number(tmp_path, undisturbed, prefect_server):
    home = tmp_path / "runs"
    for stage in ("corpus", "activations", "geometry", "ridge", "sweep", "replace", "evaluate", "report"):
        kill_when(home, prefect_server, stage, 0.01)
    assert finish(home, prefect_server) == undisturbed
