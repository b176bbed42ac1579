"""bfloat16 as 16-bit patterns in NumPy, which has no such type. Imports no torch."""

import numpy as np


def to_float32(bits: np.ndarray) -> np.ndarray:
    """Return the float32 values of bfloat16 bit patterns (uint16), exactly: the low mantissa half is zero."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
