"""Helper processes of a dump: each loads the model and makes units of the same store.

They are daemons, and they look for their parent before every batch, so none outlives a killed one. What a
helper cannot finish (it ran out of memory, say) the others make; the reason is logged.
"""

import contextlib
import dataclasses
import logging
import multiprocessing
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from dihal_core.activations.gate import STAGE, STOP_SECONDS
from dihal_core.activations.plan import DumpPlan
from dihal_core.activations.run import dump_states
from dihal_core.backbones.loading import load_backbone
from dihal_core.backbones.threads import use_threads
from dihal_core.config import BackboneSettings
from dihal_core.errors import ResourceError
from dihal_core.progress import Progress
from dihal_core.store import StageRecord, StageStore

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Work:
    """All a process needs to take part in a dump."""

    backbone: BackboneSettings
    assets: Mapping[str, StageRecord]
    seed: int
    threads: int
    plan: DumpPlan
    home: Path
    key: str
    facts: Mapping[str, Any]


@contextlib.contextmanager
def helpers(work: Work, count: int, device: str) -> Iterator[None]:
    """Run `count` helper processes beside the block; they end with it. Each takes a GPU of its own if there is one."""
    context = multiprocessing.get_context("spawn")
    started = []
    for index in range(1, count + 1):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=_help, args=(work, _device_of(device, index), sender), name=f"dump-helper-{index}", daemon=True
        )
        process.start()
        sender.close()
        started.append((process, receiver))
    finished = False
    try:
        yield
        finished = True
    finally:
        for process, receiver in started:
            process.join(STOP_SECONDS if finished else 0)
            if process.is_alive():
                process.terminate()
                process.join()
            reason = _reason(receiver)
            if reason:
                log.warning("%s stopped: %s; its units were made by the others", process.name, reason)


def _device_of(device: str, index: int) -> str:
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    return f"cuda:{index % gpus}" if gpus > 1 else device


def take_part(work: Work, device: str, listen: Progress) -> float:
    """Make units of a store that another process makes until none is left; return positions per second.

    `listen` hears of every batch, and may raise to end it. Errors are those of `dump_states`.
    """
    use_threads(work.threads)
    store = StageStore(work.home, STAGE, work.key, join=True)
    backbone = load_backbone(work.backbone, work.assets, device, work.seed)
    return dump_states(backbone, work.plan, store, work.facts, listen, check=False)


def _help(work: Work, device: str, sender: Connection) -> None:
    try:
        take_part(work, device, _stop_without_parent)
    except Exception as error:  # the parent says it; the dump goes on without this helper
        with contextlib.suppress(OSError):
            sender.send(f"{type(error).__name__}: {error}")


def _stop_without_parent(_done: float, _total: float, _unit: str) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise ResourceError("the process that started this dump is gone; run the study again, it goes on")


def _reason(receiver: Connection) -> str:
    try:
        return receiver.recv() if receiver.poll() else ""
    except EOFError:
        return ""
