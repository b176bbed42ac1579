"""One slot per GPU: which tags a task of a GPU stage carries, and the Prefect limit of one behind each tag.

Tags without a limit cost nothing; a stage on the CPU carries none, so it never waits for a GPU.
"""

import logging
import os
import platform
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from dihal_core.config import StudySettings
from tasks.progress import artifact_key

log = logging.getLogger(__name__)

GPU_STAGES = frozenset({"gates", "activations", "ridge", "sweep", "replace", "evaluate", "cost", "metrics", "ablate"})
"""Stages that run the backbone."""
DRIVER = Path("/proc/driver/nvidia/gpus")


def visible_gpus() -> list[str]:
    """Return the GPUs this process may use, as CUDA_VISIBLE_DEVICES or the driver names them; asks no torch."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    if DRIVER.is_dir():
        return [str(index) for index, _ in enumerate(sorted(DRIVER.iterdir()))]
    return ["0"] if Path("/dev/nvidiactl").exists() else []


def slot_of(gpu: str) -> str:
    """Return the tag of one GPU of this machine."""
    return f"gpu-{artifact_key(platform.node(), gpu)}"


def on_gpu(settings: StudySettings, stage: str) -> bool:
    """Return whether a task of `stage` computes on a GPU."""
    if stage == "geometry":
        return settings.geometry.backend == "torch-cuda"
    return settings.compute.device == "cuda" and stage in GPU_STAGES


def gpu_slots(settings: StudySettings, stage: str) -> list[str]:
    """Return the tags of the GPUs a task of `stage` occupies: none on the CPU, all that are visible for a model
    spread over them, one per dump worker, else the first.

    A cluster with an address has GPUs of its own, which this machine cannot name: none of ours is occupied.
    """
    if not on_gpu(settings, stage) or settings.compute.runner_address is not None:
        return []
    gpus = visible_gpus() or ["0"]
    if settings.backbone.device_map is not None:
        return [slot_of(gpu) for gpu in gpus]
    wanted = settings.compute.dump_workers if stage == "activations" else 1
    return [slot_of(gpu) for gpu in gpus[:wanted]]


def task_tags(settings: StudySettings, stage: str) -> list[str]:
    """Return all tags of a task that will run; `gpu` marks every GPU task, whichever GPU it holds."""
    return ["dihal", *(["gpu", *gpu_slots(settings, stage)] if on_gpu(settings, stage) else [])]


def ensure_limits(gpus: list[str]) -> None:
    """Create the limit of each GPU's tag where there is none; limits an operator changed stay.

    `$DIHAL_TASKS_PER_GPU` is how many tasks may share a GPU (default 1). A study does not hang on it: a failure is a
    warning.
    """
    try:
        at_once = max(1, int(os.environ.get("DIHAL_TASKS_PER_GPU", "1")))
        with get_client(sync_client=True) as client:
            for gpu in gpus:
                try:
                    client.read_concurrency_limit_by_tag(slot_of(gpu))
                except ObjectNotFound:
                    client.create_concurrency_limit(tag=slot_of(gpu), concurrency_limit=at_once)
    except Exception as error:
        log.warning("no concurrency limit for GPUs %s (%s: %s)", ", ".join(gpus), type(error).__name__, error)
