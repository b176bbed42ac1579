"""Do the chunks of committed units lie on disk as they were written?

A commit record holds the CRC32C of every chunk that its unit completed. A torn or flipped chunk, a
missing one, or a whole chunk of other values is found here, before the store is finished.
"""

from collections.abc import Mapping
from typing import Any

from dihal_core.activations.destination import Destination
from dihal_core.activations.names import pool_array, whole_array
from dihal_core.activations.plan import DumpPlan, Unit


def damaged_units(plan: DumpPlan, committed: Mapping[str, Mapping[str, Any]], destination: Destination) -> list[str]:
    """Return the names of committed units of which a chunk is missing or differs from its record.

    Reads every chunk once, in blocks.
    """
    return [
        unit.name
        for unit in plan.units()
        if unit.name in committed and not _intact(plan, unit, committed[unit.name], destination)
    ]


def _intact(plan: DumpPlan, unit: Unit, record: Mapping[str, Any], destination: Destination) -> bool:
    recorded = record.get("crc32c")
    if not isinstance(recorded, Mapping):
        return False
    for name, (shape, chunk_rows, chunks) in _completed_by(plan, unit).items():
        for index in chunks:
            wanted = recorded.get(name, {}).get(str(index))
            if wanted is None or destination.checksum(name, index, shape, chunk_rows) != wanted:
                return False
    return True


def _completed_by(plan: DumpPlan, unit: Unit) -> dict[str, tuple[tuple[int, ...], int, range]]:
    """Return `{array: (shape, chunk rows, chunks whose last row lies in the unit)}`."""
    found: dict[str, tuple[tuple[int, ...], int, range]] = {}
    rows = len(plan.rows_M3)
    pool = _chunks(unit.rows, rows, plan.chunk_rows)
    for layer in plan.table_layers:
        found[pool_array(layer)] = ((rows, plan.hidden_size), plan.chunk_rows, pool)
    windows = range(unit.windows.start, min(unit.windows.stop, plan.whole_sequences))
    if len(windows):
        whole = _chunks(windows, plan.whole_sequences, plan.whole_chunk_rows)
        for layer in plan.whole_layers:
            shape = (plan.whole_sequences, plan.positions, plan.hidden_size)
            found[whole_array(layer)] = (shape, plan.whole_chunk_rows, whole)
    return found


def _chunks(rows: range, total: int, chunk_rows: int) -> range:
    if not len(rows):
        return range(0)
    last = -(-total // chunk_rows) if rows.stop == total else rows.stop // chunk_rows
    return range(rows.start // chunk_rows, last)
