"""Whether the units of a stage that run side by side ask for more threads than there are cores."""

import os

from dihal_core.config import StudySettings


def threads_asked(settings: StudySettings) -> dict[str, tuple[int, int]]:
    """Return `{stage: (units side by side, BLAS or intra-op threads of each)}` of the CPU stages."""
    compute, layers = settings.compute, len(settings.table_layers)
    found = {"geometry": (min(compute.geometry_workers, layers), settings.geometry.threads)}
    if settings.compute.device == "cuda":
        return found
    return {
        **found,
        "activations": (compute.dump_workers, settings.activations.threads),
        "sweep": (min(compute.sweep_workers, len(settings.candidate_layers)), settings.sweep.threads),
        "replace": (1, settings.replace.threads),
        "evaluate": (1, settings.evaluation.threads),
    }


def usable_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def crowded(settings: StudySettings, cores: int | None = None) -> list[str]:
    """Return one sentence per stage that asks for more threads than cores: it works, but crawls."""
    available = usable_cores() if cores is None else cores
    return [
        f"stage {stage}: {workers} units side by side x {threads} threads each on {available} cores; lower "
        f"compute.{'dump' if stage == 'activations' else stage}_workers (changes no number) or the stage's threads"
        for stage, (workers, threads) in threads_asked(settings).items()
        if workers > 1 and workers * threads > available
    ]
