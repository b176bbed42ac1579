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


def units_at_once(stage: str, settings: StudySettings, available: int | None = None) -> int:
    """Return how many units of `stage` may be in flight, at least one.

    Threads of a unit are never taken away (they decide its last bits); fewer units run side by side
    instead. A cluster with an address has cores of its own, which are not counted here.

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
    return max(1, min(asked, (usable_cores() if available is None else available) // threads_of(stage, settings)))
