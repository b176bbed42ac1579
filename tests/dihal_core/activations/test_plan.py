"""Sampled rows depend on content alone; sizes are known before anything runs."""

import subprocess
import sys

import numpy as np
import pytest

from dihal_core.activations.bfloat16 import to_float32
from dihal_core.activations.plan import DumpPlan, candidate_layers, estimate_bytes, sample_rows, table_layers
from dihal_core.errors import ConfigError
from dihal_core.seeding import stream

TOKENS_NT = stream(0, "plan").integers(0, 99, (30, 20)).astype(np.int32)
LENGTHS_N = np.array([20, 12, 6, 5, 4] * 6, np.int32)
DOCUMENT_N = np.arange(30, dtype=np.int32) * 7


def rows(order=slice(None), per_window: int = 3, skip: int = 4, seed: int = 0) -> np.ndarray:
    return sample_rows(TOKENS_NT[order], LENGTHS_N[order], DOCUMENT_N[order], per_window, skip, seed)


def test_positions_are_distinct_sorted_past_the_skipped_ones_and_inside_the_window():
    rows_M3 = rows()
    for sequence in range(30):
        position = rows_M3[rows_M3[:, 0] == sequence, 1]
        assert len(position) == min(3, max(0, LENGTHS_N[sequence] - 4))
        assert (np.diff(position) > 0).all()
        assert ((position >= 4) & (position < LENGTHS_N[sequence])).all()
    assert np.array_equal(rows_M3[:, 2], DOCUMENT_N[rows_M3[:, 0]])


def test_a_window_keeps_its_positions_wherever_it_stands():
    order = stream(1, "order").permutation(30)
    here, there = rows(), rows(order)
    for place, sequence in enumerate(order):
        assert here[here[:, 0] == sequence, 1].tolist() == there[there[:, 0] == place, 1].tolist()
    assert rows(slice(0, 10)).tolist() == here[here[:, 0] < 10].tolist()
    assert rows(seed=1).tolist() != here.tolist()


def test_every_eligible_position_is_drawn_about_equally_often():
    tokens_NT = stream(2, "many").integers(0, 99, (4000, 12)).astype(np.int32)
    rows_M3 = sample_rows(tokens_NT, np.full(4000, 12), np.zeros(4000, np.int32), 2, 4, 0)
    share = np.bincount(rows_M3[:, 1], minlength=12) / 4000
    assert share[:4].tolist() == [0, 0, 0, 0]
    assert share[4:] == pytest.approx([0.25] * 8, abs=0.03)


def test_windows_that_are_all_too_short_are_a_setting_error():
    with pytest.raises(ConfigError, match="skip_positions 20"):
        rows(skip=20)


def test_layers_are_the_candidates_between_embedding_and_last_block():
    assert candidate_layers(1, None, 5) == (1, 2, 3, 4)
    assert candidate_layers(2, 3, 5) == (2, 3)
    assert table_layers((2, 3), 5) == (0, 2, 3, 5)


def test_the_estimate_is_values_times_two_bytes():
    sections = estimate_bytes(
        hidden_size=576, table_layers=31, candidate_layers=29, sequences=2000, positions_per_sequence=4,
        whole_sequences=640, window_tokens=128,
    )  # fmt: skip
    assert sections == {"geom": 31 * 8000 * 576 * 2, "full": 29 * 640 * 128 * 576 * 2}


def test_bfloat16_patterns_become_their_exact_values():
    bits = np.array([0x0000, 0x3F80, 0xBF80, 0x4049, 0x7F80, 0x0001], np.uint16)
    values = to_float32(bits)
    assert values.dtype == np.float32
    assert values.tolist() == [0.0, 1.0, -1.0, 3.140625, float("inf"), 2.0**-133]


def test_readers_of_states_import_neither_torch_nor_zarr():
    code = "import sys, dihal_core.activations.reader, dihal_core.activations.plan as p; sys.exit(bool({'torch', 'zarr'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def plan(hidden_size: int, positions: int, batch: int, batches: int) -> DumpPlan:
    tokens_NT = np.zeros((4, positions), np.int32)
    return DumpPlan(
        tokens_NT=tokens_NT, lengths_N=np.full(4, positions, np.int32), document_N=np.arange(4, dtype=np.int32),
        separator_id=0, rows_M3=np.zeros((4, 3), np.int32), table_layers=(0, 1), whole_layers=(1,), whole_sequences=4,
        positions_per_sequence=1, batch_sequences=batch, unit_batches=batches, hidden_size=hidden_size,
    )  # fmt: skip


def test_a_chunk_of_whole_windows_is_a_unit_or_whole_batches_of_it_below_128_megabytes():
    assert plan(576, 128, 16, 4).whole_chunk_rows == 64  # the quickstart: one chunk a unit
    paper = plan(4096, 128, 32, 64)
    assert paper.whole_chunk_rows == 128
    assert paper.unit_windows % paper.whole_chunk_rows == 0
    assert plan(4096, 128, 32, 6).whole_chunk_rows == 96  # a divisor of the unit
    assert plan(8192, 4096, 8, 4).whole_chunk_rows == 8  # never below a batch
