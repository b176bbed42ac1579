"""How many units of a stage are in flight at once, so that all of them together use no more cores than there are."""

from dihal_core.config import StudySettings
from dihal_core.cores import usable_cores

WORKERS = {"assets": "asset_workers", "geometry": "geometry_workers", "sweep": "sweep_workers"}
"""Which `compute` setting bounds the units in flight on threads; other stages run one unit at a time there."""


def threads_of(stage: str, settings: StudySettings) -> int:
    """Return the threads one unit of `stage` computes with: a keyed setting, since bits depend on it."""
    return {
        "geometry": settings.geometry.threads,
        "sweep": settings.sweep.threads,
        "evaluate": settings.evaluation.threads,
        "activations": settings.activations.threads,
    }.get(stage, 1)


def processes_of(stage: str, settings: StudySettings) -> int:
    """Return the processes one unit of `stage` trains with, each with the unit's threads, or a GPU of its own."""
    return {"sweep": settings.sweep.training.processes, "replace": settings.replace.training.processes}.get(stage, 1)


def units_at_once(stage: str, settings: StudySettings, available: int | None = None) -> int:
    """Return how many units of `stage` may be in flight, at least one.

    Threads and processes of a unit are never taken away (they decide its last bits); fewer units run side by side
    instead, and one at a time where its processes are one per GPU. A cluster with an address has cores of its own, which are not counted here.

    Parameters
    ----------
    available
        Cores of this machine; those this process may use by default.
    """
    compute = settings.compute
    if compute.runner_address is not None:
        return compute.runner_workers
    on_threads = getattr(compute, WORKERS[stage]) if stage in WORKERS else 1
    asked = on_threads if compute.runner == "threads" else compute.runner_workers
    if stage == "assets":  # waits for the network
        return asked
    processes = processes_of(stage, settings)
    if processes > 1 and compute.device == "cuda":  # a second unit would share the GPUs of the first
        return 1
    cores = usable_cores() if available is None else available
    return max(1, min(asked, cores // (threads_of(stage, settings) * processes)))
