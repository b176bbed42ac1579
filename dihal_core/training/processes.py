"""Starts the processes that train one unit together, passes on their progress, and ends with the first that fails.

They are daemons, and they look for their parent at every step, so none outlives a killed one. Only the main one
writes: checkpoints on the way, the trained arms at the end, into the store of the unit.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from dihal_core.contract import StageContext
from dihal_core.errors import ConfigError, DihalError, ResourceError
from dihal_core.progress import Progress, silent
from dihal_core.training.world import Together, World

TrainShare = Callable[[StageContext, int, World], None]
"""Module-level function that does everything up to the commit of training number `index`."""

GRACE_SECONDS = 5.0
"""How long the other processes may take to say what went wrong with them too, after the first failure."""
STOP_SECONDS = 60.0
"""How long a process that is done may take to end, before it is ended."""
PROGRESS, FAILURE, DONE = "progress", "failure", "done"


def train_together(
    train_share: TrainShare, context: StageContext, index: int, count: int, device: str, progress: Progress
) -> None:
    """Run `train_share(context, index, world)` in `count` processes and return when all are done.

    Raises
    ------
    ResourceError
        If there are fewer GPUs than processes, or a process dies.
    DihalError
        What a process raised.
    """
    gpus = torch.cuda.device_count()
    if device == "cuda" and count > gpus:
        raise ResourceError(f"training.processes {count} needs as many GPUs, this machine shows {gpus}; lower it")
    spawn, port = multiprocessing.get_context("spawn"), _free_port()
    quiet = dataclasses.replace(context, progress=silent)
    started, pipes = [], []
    for rank in range(count):
        receiver, sender = spawn.Pipe(duplex=False)
        process = spawn.Process(
            target=_work, args=(train_share, quiet, index, rank, count, port, device, sender), daemon=True,
            name=f"training-{rank}",
        )  # fmt: skip
        process.start()
        sender.close()
        started.append(process)
        pipes.append(receiver)
    finished = False
    try:
        _follow(started, pipes, progress)
        finished = True
    finally:
        for process in started:
            process.join(STOP_SECONDS if finished else 0)
            if process.is_alive():
                process.terminate()
                process.join()


def _follow(started: list[Any], pipes: list[Connection], progress: Progress) -> None:
    """Pass on progress until every process has ended; raise for the first that failed."""
    failures: list[BaseException] = []
    deadline, said = None, set()
    open_pipes = dict(zip(pipes, started, strict=True))
    while open_pipes and (deadline is None or time.monotonic() < deadline):
        for pipe in wait(list(open_pipes), timeout=0.5):
            try:
                kind, content = pipe.recv()  # type: ignore[union-attr]
            except EOFError:
                process = open_pipes.pop(pipe)  # type: ignore[call-overload]
                if pipe not in said:  # killed: whoever ends by itself says how
                    process.join(GRACE_SECONDS)
                    failures.append(ResourceError(f"{process.name} died with status {process.exitcode}"))
                continue
            if kind == PROGRESS:
                progress(*content)
                continue
            said.add(pipe)
            if kind == FAILURE:
                failures.append(content)
        if failures and deadline is None:
            deadline = time.monotonic() + GRACE_SECONDS
    if failures:
        _raise(failures)


def _raise(failures: list[BaseException]) -> None:
    """Raise the failure that explains the others: a lost connection is what follows from one."""
    for failure in failures:
        if isinstance(failure, DihalError) and not isinstance(failure, ResourceError):
            raise failure
    chosen = next((failure for failure in failures if isinstance(failure, DihalError)), failures[0])
    raise ResourceError(
        f"training in several processes stopped ({type(chosen).__name__}: {chosen}); run the same command again, it goes "
        "on from the last checkpoint, or set training.processes=1"
    ) from chosen


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _work(
    train_share: TrainShare,
    context: StageContext,
    index: int,
    rank: int,
    count: int,
    port: int,
    device: str,
    sender: Connection,
) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }  # fmt: skip

    def say(message: tuple[str, Any]) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more: the next step finds the parent gone
            sender.send(message)

    def report(done: float, total: float, unit: str) -> None:
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            raise ResourceError("the process that started this training is gone; run the study again, it goes on")
        if rank == 0:
            say((PROGRESS, (done, total, unit)))

    try:
        world = Together(cpu=device == "cpu")
        if world.size != count:
            raise ConfigError(f"{count} processes were started but {world.size} found each other")
        train_share(dataclasses.replace(context, progress=report), index, world)
        world.close()
    except Exception as error:
        plain = error if isinstance(error, DihalError) else ResourceError(f"{type(error).__name__}: {error}")
        say((FAILURE, plain))
        sender.close()
        raise SystemExit(1) from None
    say((DONE, None))
    sender.close()
