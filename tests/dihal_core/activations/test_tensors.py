"""Bit patterns and tensors are the same numbers."""

import numpy as np
import torch

from dihal_core.activations.bfloat16 import to_float32
from dihal_core.activations.tensors import from_bits, to_bits


def test_all_bit_patterns_survive_the_round_trip():
    bits = np.arange(65536, dtype=np.uint16)
    states = from_bits(bits)
    assert states.dtype == torch.bfloat16
    assert np.array_equal(to_bits(states), bits)
    assert np.array_equal(states.float().numpy(), to_float32(bits), equal_nan=True)


def test_float32_states_are_rounded_to_nearest_ties_to_even():
    values = torch.tensor([1.0, 1.0 + 2**-9, 1.0 + 3 * 2**-9, 1.0 + 2**-8 + 2**-7])
    assert to_float32(to_bits(values)).tolist() == [1.0, 1.0, 1.0 + 2**-7, 1.0 + 2 * 2**-7]


def test_slices_that_are_not_contiguous_are_written_in_row_order():
    states = torch.arange(24.0).reshape(4, 6).T.bfloat16()
    assert to_float32(to_bits(states)).tolist() == states.float().tolist()
    read_only = np.frombuffer(to_bits(states).tobytes(), np.uint16)
    assert from_bits(read_only).float().tolist() == states.float().flatten().tolist()
