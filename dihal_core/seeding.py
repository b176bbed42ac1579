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
