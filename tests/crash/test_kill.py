"""kill -9 in the middle of a stage, then the same command again: the same numbers as an undisturbed run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("prefect_server")

LONGER = [
    "sweep.training.epochs=8",
    "sweep.training.max_steps=40",
    "replace.training.epochs=8",
    "replace.training.max_steps=60",
]
"""Smoke settings under which training spans several checkpoints."""


def command(home: Path) -> list[str]:
    return [sys.executable, "-m", "flows.cli", "study", "--profile", "smoke", "--home", str(home), "--set", *LONGER]


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


def saved_work(home: Path, stage: str) -> dict[str, tuple[int, bytes]]:
    """Commit records and checkpoints of unfinished stores of `stage`, with their times and bytes."""
    found = {}
    for partial in (home / stage).glob("*.partial"):
        for path in (*partial.glob("commits/*.json"), *partial.glob("checkpoint*")):
            found[path.relative_to(partial.parent).as_posix()] = path.stat().st_mtime_ns, path.read_bytes()
    return found


def kill_after_saved_work(home: Path, url: str, stage: str) -> dict[str, tuple[int, bytes]]:
    """Start the study, kill -9 its process group once the stage has saved some work; return what was saved."""
    process = subprocess.Popen(
        command(home),
        env=environment(url),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and process.poll() is None and not saved_work(home, stage):
            time.sleep(0.002)
        assert process.poll() is None, f"the study ended before {stage} had saved any work"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return saved_work(home, stage)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, prefect_server):
    return finish(tmp_path_factory.mktemp("undisturbed") / "runs", prefect_server)


def check(stage: str, home: Path, undisturbed: dict[str, str], url: str) -> None:
    saved = kill_after_saved_work(home, url, stage)
    assert saved
    assert finish(home, url) == undisturbed
    for name, (moment, content) in saved.items():
        kept = home / stage / name.replace(".partial/", "/")
        if "/commits/" in name:  # checkpoints are removed once the stage is done
            grown = kept.read_bytes()
            if stage == "geometry" and grown != content:  # a group of subsamples that was not full goes on
                before, after = json.loads(content)["rows"], json.loads(grown)["rows"]
                assert after[: len(before)] == before
                assert len(after) > len(before)
            else:
                assert kept.stat().st_mtime_ns == moment, f"{name} was made again"


def test_a_kill_in_the_final_training_changes_no_number(tmp_path, undisturbed, prefect_server):
    check("replace", tmp_path / "runs", undisturbed, prefect_server)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["activations", "geometry", "sweep", "evaluate"])
def test_a_kill_in_the_middle_of_a_stage_changes_no_number(stage, tmp_path, undisturbed, prefect_server):
    check(stage, tmp_path / "runs", undisturbed, prefect_server)


@pytest.mark.slow
def test_a_kill_in_every_stage_in_turn_changes_no_number(tmp_path, undisturbed, prefect_server):
    home = tmp_path / "runs"
    for stage in ("activations", "geometry", "sweep", "replace"):
        assert kill_after_saved_work(home, prefect_server, stage)
    assert finish(home, prefect_server) == undisturbed
