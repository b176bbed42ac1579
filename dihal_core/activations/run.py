"""Compute and write the units of a dump that are not on disk yet."""

import time
from collections.abc import Mapping
from typing import Any

from dihal_core.activations.forward import batch_states
from dihal_core.activations.layout import create_group
from dihal_core.activations.names import GROUP
from dihal_core.activations.plan import DumpPlan, Unit
from dihal_core.activations.writer import StateWriter
from dihal_core.backbones.backbone import Backbone
from dihal_core.progress import Progress
from dihal_core.store import StageStore

LAYOUT = "layout"
"""Name of the commit record of the array metadata."""


def dump_states(
    backbone: Backbone, plan: DumpPlan, store: StageStore, facts: Mapping[str, Any], progress: Progress
) -> float:
    """Write all units that are not committed yet; return computed positions per second of this attempt."""
    if LAYOUT not in store.committed():
        create_group(store.path / GROUP, plan, facts)
        store.commit(LAYOUT, {})
    todo = remaining_units(plan, store)
    progress(plan.windows - sum(len(unit.windows) for unit in todo), plan.windows, "windows")
    if not todo:
        return 0.0
    started, positions = time.monotonic(), 0
    with StateWriter(store, plan, todo[0]) as writer:
        for unit in todo:
            for start in range(unit.windows.start, unit.windows.stop, plan.batch_sequences):
                last = start + plan.batch_sequences >= unit.windows.stop
                writer.put(batch_states(backbone, plan, start), finishes=unit if last else None)
                positions += plan.batch_sequences * plan.positions
                progress(min(start + plan.batch_sequences, unit.windows.stop), plan.windows, "windows")
    return round(positions / (time.monotonic() - started), 1)


def remaining_units(plan: DumpPlan, store: StageStore) -> list[Unit]:
    """Return the units to compute: from the first one whose chunks are not all on disk.

    Where short windows gave fewer rows than asked, a pool chunk can reach over units; then the unit
    in which the unfinished chunk begins is computed again.
    """
    units, committed = plan.units(), store.committed()
    done = next((unit.index for unit in units if unit.name not in committed), len(units))
    if done == len(units):
        return []
    chunk_start = units[done].rows.start // plan.chunk_rows * plan.chunk_rows
    while done and units[done].rows.start > chunk_start:
        done -= 1
    return units[done:]
