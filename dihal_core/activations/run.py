"""Compute and write the units of a dump that are not on disk yet, alone or beside other processes.

What is invariant, and what is not: states of bfloat16 models move by about 1 % (median) when the batch
size or the number of threads changes, because sums are taken in another order. The same batch shape,
the same thread count and the same device give the same bits whatever else is in the batch, so a unit
made again after a kill, or made by another worker, has the same bytes. In a mixture of experts each
expert multiplies the tokens that the whole batch sent to it, so other kernels than the CPU ones tested
(where neighbours changed no bit) may let them matter; a batch is always made of the same windows, so
even then a unit made again is the same.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dihal_core.activations.destination import Destination
from dihal_core.activations.forward import batch_states
from dihal_core.activations.layout import create_group
from dihal_core.activations.leases import UnitLeases
from dihal_core.activations.names import GROUP
from dihal_core.activations.plan import DumpPlan, Unit
from dihal_core.activations.recheck import damaged_units
from dihal_core.activations.writer import Part, StateWriter
from dihal_core.backbones.backbone import Backbone
from dihal_core.errors import ArtifactError
from dihal_core.progress import Progress
from dihal_core.store import StageStore

log = logging.getLogger(__name__)

LAYOUT = "layout"
"""Name of the commit record of the array metadata."""
POLL_SECONDS = 0.2
REPAIRS = 3
"""Rounds in which units whose chunks do not read back are made again before the disk is blamed."""


def dump_states(
    backbone: Backbone,
    plan: DumpPlan,
    store: StageStore,
    facts: Mapping[str, Any],
    progress: Progress,
    destination: Destination | None = None,
    *,
    check: bool = True,
) -> float:
    """Write all units that are not committed yet; return computed positions per second of this attempt.

    Several processes may call this on one store: each leases units, makes them, and returns when all
    are committed, whoever made them.

    Parameters
    ----------
    facts
        What a stranger should know of the backbone, for the group's attributes.
    destination
        Group to write to; default: `states.zarr` inside the store, written directly.
    check
        At the end, compare every chunk with its CRC32C and its commit record and make damaged units again.

    Raises
    ------
    NumericsError
        If a state is not finite.
    ArtifactError
        If chunks keep reading back other bytes than were written.
    OSError
        If the disk is full.
    """
    destination = destination or Destination(store.path / GROUP)
    positions, seconds = 0, 0.0
    with UnitLeases(store.final.parent / f".{store.key}.units") as leases:
        _make_layout(plan, store, facts, destination, leases)
        for repairs in range(REPAIRS + 1):
            while missing := remaining_units(plan, store.committed()):
                progress(plan.windows - sum(len(unit.windows) for unit in missing), plan.windows, "windows")
                started = time.monotonic()
                made = _make_units(backbone, plan, store, destination, leases, progress)
                positions += made
                if made:
                    seconds += time.monotonic() - started
                else:
                    log.debug("%d units are being made by other processes", len(missing))
                    time.sleep(POLL_SECONDS)
            damaged = damaged_units(plan, store.committed(), destination) if check else []
            if not damaged:
                break
            if repairs == REPAIRS:
                raise ArtifactError(
                    f"{damaged[0]} reads back damaged after {REPAIRS} repairs; the disk under {store.path} does not "
                    "keep what is written to it: check it, or set DIHAL_HOME to another one"
                )
            for name in damaged:
                log.warning("%s of %s/%s reads back damaged; it is made again", name, store.stage, store.key)
                store.withdraw(name)
    if not positions:
        progress(plan.windows, plan.windows, "windows")
    return round(positions / seconds, 1) if seconds else 0.0


def remaining_units(plan: DumpPlan, committed: Iterable[str]) -> list[Unit]:
    """Return the units to compute, in order: those whose chunks are not all on disk."""
    names = frozenset(committed)
    return [unit for span in plan.spans() for unit in _remaining(plan, span, names.__contains__)]


def _remaining(plan: DumpPlan, span: list[Unit], is_committed: Callable[[str], bool]) -> list[Unit]:
    """Return what is left of one span, from the first unit that is not committed.

    Where short windows gave fewer rows than asked, a pool chunk can reach over units; then the unit
    in which the unfinished chunk begins is computed again.
    """
    done = next((place for place, unit in enumerate(span) if not is_committed(unit.name)), len(span))
    if done == len(span):
        return []
    chunk_start = span[done].rows.start // plan.chunk_rows * plan.chunk_rows
    while done and span[done].rows.start > chunk_start:
        done -= 1
    return span[done:]


def _make_layout(
    plan: DumpPlan, store: StageStore, facts: Mapping[str, Any], destination: Destination, leases: UnitLeases
) -> None:
    behind_all_units = len(plan.units())
    leases.take(behind_all_units, wait=True)
    if not store.has(LAYOUT):
        create_group(destination.group, plan, facts, destination.codec)
        store.commit(LAYOUT, {})
    leases.give_back(behind_all_units)


def _make_units(
    backbone: Backbone,
    plan: DumpPlan,
    store: StageStore,
    destination: Destination,
    leases: UnitLeases,
    progress: Progress,
) -> int:
    """Lease and make every unit that is free; return the positions computed."""
    positions, last_made = 0, -2
    with StateWriter(store, plan, destination) as writer:
        for span in plan.spans():
            if all(store.has(unit.name) for unit in span) or not leases.take(span[0].index):
                continue
            todo = _remaining(plan, span, store.has)
            if not todo:
                leases.give_back(span[0].index)
            for unit in todo:
                starts = range(unit.windows.start, unit.windows.stop, plan.batch_sequences)
                for start in starts:
                    finishes = start == starts[-1]
                    if finishes:
                        writer.wait_for_commits()
                    release = _release(leases, span[0].index) if finishes and unit is todo[-1] else None
                    opens = start == starts[0] and (unit is todo[0]) and unit.index != last_made + 1
                    writer.put(Part(batch_states(backbone, plan, start), unit, opens, finishes, release))
                    positions += plan.batch_sequences * plan.positions
                    progress(min(start + plan.batch_sequences, unit.windows.stop), plan.windows, "windows")
                last_made = unit.index
    return positions


def _release(leases: UnitLeases, unit: int) -> Callable[[], None]:
    return lambda: leases.give_back(unit)
