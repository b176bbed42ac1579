"""A dump that is killed, runs out of disk, or loses chunks ends as the store of an undisturbed one."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ACTIVATIONS = Path(__file__).parents[1] / "dihal_core" / "activations"
DUMP = ACTIVATIONS / "dump_script.py"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}

_spec = importlib.util.spec_from_file_location("dump_script", DUMP)
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


def drill(folder: Path, kills: int) -> dict:
    arguments = [sys.executable, Path(__file__).with_name("drill_script.py"), folder, str(kills)]
    done = subprocess.run(arguments, env=ONE_THREAD, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    print(done.stdout)
    return json.loads(done.stdout)


def check(found: dict, kills: int) -> None:
    assert found["kills"] >= kills
    assert found["different"] == 0
    assert found["undetected"] == 0
    assert found["most_units_redone"] <= 1, found
    assert found["most_batches_redone"] < 2 * found["batches_of_a_unit"], found


def test_a_few_kills_in_the_middle_of_units_change_no_byte(tmp_path):
    check(drill(tmp_path, 5), 5)


@pytest.mark.slow
def test_fifty_kills_and_harmed_chunks_change_no_byte_and_redo_one_unit_at_most(tmp_path):
    found = drill(tmp_path, 50)
    check(found, 50)
    assert found["harmed"] > 0


@pytest.mark.slow  # where no tmpfs can be mounted, this is the full disk
def test_a_file_that_may_not_grow_stops_the_dump_and_a_rerun_finishes_it(tmp_path):
    limited = [sys.executable, DUMP, tmp_path / "limited", "limit", "5500"]
    done = subprocess.run(limited, env=ONE_THREAD, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    partial = tmp_path / "limited" / "activations" / "k.partial"
    assert (partial / "commits" / "layout.json").exists()
    assert not list(partial.glob("commits/unit-*.json"))
    assert list(partial.rglob("*.tmp"))
    plan = script.tiny_plan(40)
    assert script.dump(tmp_path / "limited", plan).digest == script.dump(tmp_path / "whole", plan).digest


def test_a_full_tmpfs_stops_the_dump_and_more_room_finishes_it(tmp_path):
    disk, unshare = tmp_path / "disk", shutil.which("unshare")
    disk.mkdir()
    inside = ["--user", "--map-root-user", "--mount"] if os.geteuid() else ["--mount"]
    mount = f"mount -t tmpfs -o size=300k tmpfs {disk}"
    if unshare is None or subprocess.run([unshare, *inside, "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this machine permits no mount of a tmpfs in a namespace of its own")
    steps = f"""
        {mount} || exit 9
        {sys.executable} {DUMP} {disk} 2>{tmp_path}/error && exit 8
        ls {disk}/activations/k.partial/commits > {tmp_path}/committed
        mount -o remount,size=20m {disk} || exit 7
        {sys.executable} {DUMP} {disk}
    """
    done = subprocess.run(
        [unshare, *inside, "sh", "-c", steps], env=ONE_THREAD, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    assert "No space left on device" in (tmp_path / "error").read_text()
    committed = (tmp_path / "committed").read_text().split()
    assert 0 < len(committed) < 13
    assert done.stdout.strip() == script.dump(tmp_path / "undisturbed").digest
