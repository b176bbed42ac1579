"""Named random streams of one seed.

A stream depends on the seed and its name only, never on how many workers run, which layer came
first, or how often another stream was used. Ours: the paper does not state its seeding.
"""

import hashlib

import numpy as np


def stream_entropy(seed: int, *name: str | int) -> int:
    """Return 128 bits derived from `seed` and the stream's name (order of parts matters)."""
    text = "\x1f".join([str(int(seed)), *(f"{type(part).__name__}:{part}" for part in name)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def stream(seed: int, *name: str | int) -> np.random.Generator:
    """Return the NumPy generator of the stream `name` under `seed`.

    Examples
    --------
    >>> stream(0, "geometry", "subsample", 3).integers(10) == stream(0, "geometry", "subsample", 3).integers(10)
    True
    """
    return np.random.Generator(np.random.PCG64(stream_entropy(seed, *name)))


def torch_seed(seed: int, *name: str | int) -> int:
    """Return a 63-bit seed of the stream, for `torch.Generator().manual_seed`."""
    return stream_entropy(seed, *name) & ((1 << 63) - 1)


def training_seed(seed: int, number: int) -> int:
    """Return the root seed of training number `number` of a study: of initial weights, noise and batch order.

    The one rule for all repeated trainings (sweep, comparison of architectures): number 0 is the study's own seed,
    every further one a stream of it. Ours: seeds n and n + 1 of two studies must not share trainings, which
    `seed + number` would let them.

    Examples
    --------
    >>> training_seed(7, 0), training_seed(7, 1) == training_seed(8, 0)
    (7, False)
    """
    return torch_seed(seed, "sweep seed", number) if number else seed
