"""The cores of this machine, and whether the processes of a dump ask for more threads than there are."""

import os

from dihal_core.config import StudySettings


def usable_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def crowded(settings: StudySettings, cores: int | None = None) -> str | None:
    """Return a sentence if the dump asks for more threads than cores, which works, but crawls.

    Units of other stages are bounded by `tasks.capacity`; dump workers are processes of one unit.
    """
    available = usable_cores() if cores is None else cores
    workers, threads = settings.compute.dump_workers, settings.activations.threads
    if settings.compute.device == "cuda" or workers == 1 or workers * threads <= available:
        return None
    return (
        f"the dump asks for {workers} processes x {threads} threads each on {available} cores; lower "
        "compute.dump_workers (changes no number) or activations.threads"
    )
