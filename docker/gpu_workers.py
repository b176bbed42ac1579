"""One Prefect worker per GPU of this container, as `dihal up` has them on a machine.

Each sees its GPU alone and takes one run of the queue `gpu` at a time: two runs in one worker would both take the first
GPU. A worker that ends is started again beside the others, whose runs a restart of the container would end.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

PAUSE_SECONDS = 5.0
"""Between the end of a worker and its next start."""

Work = tuple[list[str], dict[str, str]]
"""A command and what its environment holds beside ours."""


def commands(gpus: str, pool: str) -> list[Work]:
    """Return the worker of each of the first `gpus` GPUs.

    Raises
    ------
    ValueError
        If `gpus` is no whole number from 1 to 64.
    """
    if not re.fullmatch(r"[1-9][0-9]?", gpus) or int(gpus) > 64:
        raise ValueError(
            f"DIHAL_GPUS {gpus!r} is not a whole number from 1 to 64; give how many GPUs the stack may use"
        )
    words = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--work-queue", "gpu", "--limit", "1"]
    return [
        ([*words, "--name", f"gpu-worker-{index}"], {"CUDA_VISIBLE_DEVICES": str(index)}) for index in range(int(gpus))
    ]


def keep_running(work: Sequence[Work], pause_s: float = PAUSE_SECONDS) -> None:
    """Run every command, again when it ends, until SIGTERM or SIGINT, which each gets once; return when all ended."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: asked.append(number))
    running: list[subprocess.Popen[bytes] | None] = [None] * len(work)
    due = [0.0] * len(work)
    told = False
    while not told or any(process is not None for process in running):
        if asked and not told:
            told = True
            for process in running:
                if process is not None:
                    process.send_signal(asked[0])
        for index, (words, environment) in enumerate(work):
            process = running[index]
            if process is not None and process.poll() is not None:
                sys.stderr.write(f"dihal: {' '.join(words[-2:])} ended with status {process.returncode}\n")
                running[index], due[index] = None, time.monotonic() + pause_s
            elif process is None and not asked and time.monotonic() >= due[index]:
                running[index] = subprocess.Popen(words, env={**os.environ, **environment}, start_new_session=True)
        time.sleep(0.2)


def main() -> None:
    """Read `DIHAL_GPUS` (1 unless given) and `DIHAL_POOL`, and keep one worker per GPU running."""
    try:
        work = commands(os.environ.get("DIHAL_GPUS") or "1", os.environ.get("DIHAL_POOL") or "dihal-local")
    except ValueError as error:
        sys.exit(f"dihal: {error}")
    keep_running(work)


if __name__ == "__main__":
    main()
