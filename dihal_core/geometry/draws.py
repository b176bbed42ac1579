"""Which rows and pairs each subsample of the protocol holds: the same for every layer.

Paper section 2: 100 subsamples of 3,000 examples and 30 additional ones of 500. The additional ones are
fresh draws from the pool, not subsets of the large ones.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from dihal_core.errors import ConfigError
from dihal_core.seeding import stream


@dataclasses.dataclass(frozen=True)
class Draw:
    """One subsample of the protocol."""

    group: str
    """`large` or `small`."""
    index: int
    size: int


def protocol_draws(settings: Any) -> list[Draw]:
    """Return all draws of `GeometrySettings`, large ones first."""
    return [Draw("large", index, settings.large_size) for index in range(settings.large_count)] + [
        Draw("small", index, settings.small_size) for index in range(settings.small_count)
    ]


def draw_rows(seed: int, draw: Draw, pool_rows: int) -> np.ndarray:
    """Return the pool rows of one subsample: without replacement, ascending, whatever the layer.

    Raises
    ------
    ConfigError
        If the pool is smaller than the subsample.
    """
    if draw.size > pool_rows:
        raise ConfigError(
            f"geometry.{draw.group}_size {draw.size} exceeds the pool of {pool_rows} rows; lower it or raise "
            "activations.num_sequences or activations.positions_per_sequence"
        )
    rng = stream(seed, "geometry", draw.group, draw.index, "rows")
    return np.sort(rng.choice(pool_rows, draw.size, replace=False))


def draw_pairs(seed: int, draw: Draw, num_pairs: int) -> np.ndarray:
    """Return distinct unordered pairs of positions within the subsample, shape (M, 2), whatever the layer.

    Raises
    ------
    ConfigError
        If the subsample has fewer pairs.
    """
    return distinct_pairs(draw.size, num_pairs, stream(seed, "geometry", draw.group, draw.index, "pairs"))


def distinct_pairs(rows: int, num_pairs: int, rng: np.random.Generator) -> np.ndarray:
    """Return `num_pairs` different pairs i < j of 0..rows-1, shape (M, 2).

    Raises
    ------
    ConfigError
        If there are not so many.
    """
    possible = rows * (rows - 1) // 2
    if num_pairs > possible:
        raise ConfigError(
            f"got {num_pairs} pairs of {rows} rows; only {possible} exist: lower geometry.num_pairs or enlarge subsamples"
        )
    code_M = rng.choice(possible, num_pairs, replace=False)
    j_M = ((1.0 + np.sqrt(1.0 + 8.0 * code_M)) / 2.0).astype(np.int64)
    j_M -= j_M * (j_M - 1) // 2 > code_M  # the square root may round up
    j_M += (j_M + 1) * j_M // 2 <= code_M
    return np.stack([code_M - j_M * (j_M - 1) // 2, j_M], axis=1)


def groups_of(draws: list[Draw], size: int) -> Iterator[tuple[str, list[Draw]]]:
    """Yield (unit name, draws): up to `size` draws of one kind are committed together."""
    for kind in ("large", "small"):
        of_kind = [draw for draw in draws if draw.group == kind]
        for first in range(0, len(of_kind), size):
            yield f"{kind}-{first:04d}", of_kind[first : first + size]
