"""docker/gpu_workers.py: a worker per GPU, each started again when it ends; the processes here are small ones."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "docker" / "gpu_workers.py"
_spec = importlib.util.spec_from_file_location("gpu_workers", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
gpu_workers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(gpu_workers)

KEEP = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("gpu_workers", sys.argv[1])
found = importlib.util.module_from_spec(spec)
spec.loader.exec_module(found)
code = "import os, sys, time; open(sys.argv[1] + '/' + os.environ['GPU'] + '-' + str(os.getpid()), 'w').close(); time.sleep(60)"
found.keep_running([([sys.executable, "-c", code, sys.argv[2]], {"GPU": name}) for name in "01"], pause_s=0.1)
"""


def test_each_gpu_gets_a_worker_that_sees_it_alone_and_takes_one_run():
    work = gpu_workers.commands("2", "dihal-local")
    assert [environment for _, environment in work] == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    for index, (words, _) in enumerate(work):
        options = dict(zip(words[5::2], words[6::2], strict=True))
        assert words[:5] == [sys.executable, "-m", "prefect", "worker", "start"]
        assert options == {
            "--pool": "dihal-local",
            "--work-queue": "gpu",  # as deployments/prefect.yaml calls it
            "--limit": "1",
            "--name": f"gpu-worker-{index}",
        }


@pytest.mark.parametrize("given", ["0", "-1", "all", "1.5", "65", "1000", "two"])
def test_a_bad_number_of_gpus_is_refused_with_a_sentence(given):
    environment = {**os.environ, "DIHAL_GPUS": given}
    done = subprocess.run([sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(f"dihal: DIHAL_GPUS {given!r} is not a whole number from 1 to 64;")
    assert "Traceback" not in done.stderr


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Callable[[str, int], int]]]:
    """Two commands that are kept running, and a function that waits for the n-th process of one of them."""
    process = subprocess.Popen(
        [sys.executable, "-c", KEEP, str(SCRIPT), str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    seen: dict[str, list[int]] = {"0": [], "1": []}

    def started(name: str, times: int) -> int:
        deadline = time.monotonic() + 30
        while len(seen[name]) < times:
            assert time.monotonic() < deadline, f"{name} did not start {times} times"
            for path in tmp_path.glob(f"{name}-*"):
                pid = int(path.name.split("-")[1])
                if pid not in seen[name]:
                    seen[name].append(pid)
            time.sleep(0.05)
        return seen[name][-1]

    yield process, started
    for pid in [*seen["0"], *seen["1"]]:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)
    process.kill()
    process.communicate(timeout=30)


def test_a_worker_that_dies_is_started_again_and_the_other_goes_on(kept):
    _, started = kept
    first, other = started("0", 1), started("1", 1)
    os.kill(first, signal.SIGKILL)
    assert started("0", 2) != first
    assert psutil.Process(other).status() != psutil.STATUS_ZOMBIE
    assert started("1", 1) == other


def test_all_workers_end_when_the_container_is_told_to_stop(kept):
    process, started = kept
    pids = [started("0", 1), started("1", 1)]
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 0, said
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
