"""What a dump will hold, decided before the first forward. Imports no torch.

Letters: N windows, T positions, M pool rows, S windows stored whole.
"""

import dataclasses
import hashlib

import numpy as np

from dihal_core.errors import ConfigError
from dihal_core.seeding import stream

BYTES_PER_VALUE = 2
CHUNK_BYTES = 128 * 2**20
"""Chunks of whole windows stay below this where a batch does, so that any reader can hold a few."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """Whole batches that are committed together: windows and pool rows from..to (exclusive)."""

    index: int
    windows: range
    rows: range

    @property
    def name(self) -> str:
        """Name of the commit record."""
        return f"unit-{self.index:06d}"


@dataclasses.dataclass(frozen=True)
class DumpPlan:
    """Windows, sampled rows, layers and shapes of one dump."""

    tokens_NT: np.ndarray
    lengths_N: np.ndarray
    document_N: np.ndarray
    separator_id: int
    rows_M3: np.ndarray
    """(sequence, position, document) of every pool row, int32, in order; the last position of a mean."""
    table_layers: tuple[int, ...]
    whole_layers: tuple[int, ...]
    """Layers stored at every position of the first windows: the candidates, or all of them the paper's way."""
    whole_sequences: int
    positions_per_sequence: int
    batch_sequences: int
    unit_batches: int
    hidden_size: int
    token_policy: str = "random"
    skip_positions: int = 0
    """First positions that no pool row describes; read by the policy `mean`."""

    @property
    def windows(self) -> int:
        """N."""
        return len(self.lengths_N)

    @property
    def positions(self) -> int:
        """T."""
        return self.tokens_NT.shape[1]

    @property
    def unit_windows(self) -> int:
        """Windows of a full unit."""
        return self.batch_sequences * self.unit_batches

    @property
    def whole_chunk_rows(self) -> int:
        """Windows of a chunk of whole windows: a unit, or whole batches of it where that would exceed `CHUNK_BYTES`."""
        batch_bytes = self.batch_sequences * self.positions * self.hidden_size * BYTES_PER_VALUE
        batches = max(1, min(self.unit_batches, CHUNK_BYTES // batch_bytes))
        while self.unit_batches % batches:
            batches -= 1
        return batches * self.batch_sequences

    @property
    def chunk_rows(self) -> int:
        """Pool rows of a chunk: those of a full unit."""
        return self.unit_windows * self.positions_per_sequence

    def first_row(self, window: int) -> int:
        """Return the index of the first pool row of `window` or later."""
        return int(np.searchsorted(self.rows_M3[:, 0], window))

    def units(self) -> list[Unit]:
        """Return all units in order."""
        starts = range(0, self.windows, self.unit_windows)
        return [
            Unit(
                index,
                range(start, min(start + self.unit_windows, self.windows)),
                range(self.first_row(start), self.first_row(start + self.unit_windows)),
            )
            for index, start in enumerate(starts)
        ]

    def spans(self) -> list[list[Unit]]:
        """Return runs of units that share no chunk: what one worker takes at a time.

        One unit each, unless windows shorter than asked gave fewer rows, so that a pool chunk reaches
        over units.
        """
        spans: list[list[Unit]] = []
        for unit in self.units():
            if spans and unit.rows.start % self.chunk_rows:
                spans[-1].append(unit)
            else:
                spans.append([unit])
        return spans

    def batch(self, start: int) -> np.ndarray:
        """Return tokens_BT of the windows from `start`; rows past the end are separators only.

        The shape is always the same, because bfloat16 results depend on it.
        """
        taken_BT = self.tokens_NT[start : start + self.batch_sequences]
        batch_BT = np.full((self.batch_sequences, self.positions), self.separator_id, dtype=np.int64)
        batch_BT[: len(taken_BT)] = taken_BT
        return batch_BT


def sample_rows(
    tokens_NT: np.ndarray,
    lengths_N: np.ndarray,
    document_N: np.ndarray,
    positions: int,
    skip: int,
    seed: int,
    policy: str = "random",
) -> np.ndarray:
    """Choose the pool rows: `positions` positions per window from skip..length-1, without replacement.

    Under the policies `last` and `mean` it is the window's last position.

    The choice depends on the seed and the window's tokens only, not on its place or on other windows.
    A window with fewer eligible positions gives all it has. Ours: the paper does not say which tokens.

    Returns
    -------
    numpy.ndarray
        (M, 3) int32: sequence, position, document; sorted by sequence, then position.

    Raises
    ------
    ConfigError
        If no window has an eligible position.
    """
    parts = []
    for sequence, (length, document) in enumerate(zip(lengths_N.tolist(), document_N.tolist(), strict=True)):
        eligible = np.arange(skip, length, dtype=np.int32)
        if policy != "random":
            parts.append(np.array([[sequence, length - 1, document]] if len(eligible) else [], np.int32).reshape(-1, 3))
            continue
        content = hashlib.sha256(np.ascontiguousarray(tokens_NT[sequence, :length], dtype="<i4").tobytes()).hexdigest()
        draw = stream(seed, "activations", "positions", content)
        chosen = np.sort(draw.choice(eligible, size=min(positions, len(eligible)), replace=False))
        facts = (np.full_like(chosen, sequence), chosen, np.full_like(chosen, document))
        parts.append(np.stack(facts, axis=1))
    rows_M3 = np.concatenate(parts) if parts else np.empty((0, 3), np.int32)
    if not len(rows_M3):
        raise ConfigError(f"no window is longer than activations.skip_positions {skip}; lower it or use longer windows")
    return rows_M3.astype(np.int32)


def candidate_layers(first_layer: int, last_layer: int | None, num_layers: int) -> tuple[int, ...]:
    """Return layers `first_layer`..`last_layer` (None means L-1): the scored set."""
    return tuple(range(first_layer, (last_layer or num_layers - 1) + 1))


def table_layers(candidates: tuple[int, ...], num_layers: int) -> tuple[int, ...]:
    """Return the candidates plus 0 (embedding output) and L (raw last block)."""
    return tuple(sorted({0, *candidates, num_layers}))


def estimate_bytes(
    *,
    hidden_size: int,
    table_layers: int,
    candidate_layers: int,
    sequences: int,
    positions_per_sequence: int,
    whole_sequences: int,
    window_tokens: int,
) -> dict[str, int]:
    """Return the bytes of a dump by section: `geom` (pool) and `full` (whole windows). Counts, not lists."""
    value = hidden_size * BYTES_PER_VALUE
    return {
        "geom": table_layers * sequences * positions_per_sequence * value,
        "full": candidate_layers * whole_sequences * window_tokens * value,
    }


def plan_bytes(plan: DumpPlan) -> dict[str, int]:
    """Return the bytes of the planned arrays by section."""
    sections = estimate_bytes(
        hidden_size=plan.hidden_size,
        table_layers=len(plan.table_layers),
        candidate_layers=len(plan.whole_layers),
        sequences=1,
        positions_per_sequence=len(plan.rows_M3),
        whole_sequences=plan.whole_sequences,
        window_tokens=plan.positions,
    )
    return {**sections, "windows": 4 * (plan.tokens_NT.size + 2 * plan.windows + plan.rows_M3.size)}
