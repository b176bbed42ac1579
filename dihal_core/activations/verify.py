"""Proof that a dump holds what the model says: recompute a sample, read it back through zarr, compare bits."""

from pathlib import Path
from typing import Any

import numpy as np
import zarr

from dihal_core.activations.forward import batch_states
from dihal_core.activations.plan import DumpPlan
from dihal_core.backbones.backbone import Backbone
from dihal_core.errors import NumericsError
from dihal_core.seeding import stream

SAMPLED_FRACTION = 1e-3


def verify(backbone: Backbone, plan: DumpPlan, group: Path | str, seed: int, batches: int = 1) -> dict[str, int]:
    """Recompute a seeded sample of batches (0.1 %, at least `batches` and one of each section), compare bit for bit.

    The stored side is read by zarr-python, which checks the CRC32C of every chunk it opens. Bits can only
    agree on the device, thread count and batch shape the dump was made with (`run` says why).

    Returns
    -------
    dict
        `verified_rows` pool rows and `verified_whole_sequences` windows, each at all their layers.

    Raises
    ------
    NumericsError
        If a stored state differs from the recomputed one, naming layer and sequence.
    """
    root: Any = zarr.open_group(group, mode="r")
    rows, whole = 0, 0
    for start in _sampled_starts(plan, seed, batches):
        stop = min(start + plan.batch_sequences, plan.windows)
        whole += max(0, min(stop, plan.whole_sequences) - start)
        first, last = plan.first_row(start), plan.first_row(stop)
        for name, computed in batch_states(backbone, plan, start).items():
            section = name.partition("/")[0]
            begin = first if section == "geom" else start
            stored = root[name][begin : begin + len(computed)]
            if not np.array_equal(stored, computed):
                differs = np.flatnonzero((stored != computed).reshape(len(computed), -1).any(axis=1))[0]
                sequence = plan.rows_M3[begin + differs, 0] if section == "geom" else begin + differs
                raise NumericsError(
                    f"stored {name} differs from the recomputed state at sequence {int(sequence)}; this machine does "
                    "not repeat its own forward pass: lower activations.threads to 1 or check its memory, then run again"
                )
        rows += last - first
    return {"verified_rows": rows, "verified_whole_sequences": whole}


def _sampled_starts(plan: DumpPlan, seed: int, batches: int) -> list[int]:
    starts = np.arange(0, plan.windows, plan.batch_sequences)
    draw = stream(seed, "activations", "verify")
    count = min(len(starts), max(batches, round(SAMPLED_FRACTION * len(starts))))
    chosen = {int(start) for start in draw.choice(starts, size=count, replace=False)}
    inside = starts[starts < plan.whole_sequences]
    if len(inside) and not any(start < plan.whole_sequences for start in chosen):
        chosen.add(int(draw.choice(inside)))
    return sorted(chosen)
