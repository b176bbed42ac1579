"""Sentences about rows and windows."""

import pytest

from dihal_core.geometry.flags import layer_flags

QUIET = {
    "rows": 100, "outlier_rows": 0, "outlier_trace_share": 0.0, "duplicate_rows": 0, "top_dimension": 3,
    "top_dimension_share": 0.1, "max_norm_ratio": 2.0, "position_0_norm_ratio": 1.1, "massive_tokens": 0,
    "massive_at_position_0": 0, "sink_windows": 16, "sink_tokens": 2048, "skipped_positions": 4,
}  # fmt: skip


def test_quiet_layers_are_not_flagged():
    assert layer_flags({1: QUIET, 2: QUIET}) == []


@pytest.mark.parametrize(("skipped", "said"), [(4, "the pool skips it"), (0, "the pool holds it")])
def test_a_sink_at_position_0_is_told_with_its_norm_its_windows_and_whether_the_pool_holds_it(skipped, said):
    loud = {**QUIET, "position_0_norm_ratio": 85.2, "massive_tokens": 16, "massive_at_position_0": 16}
    loud["skipped_positions"] = skipped
    (flag,) = layer_flags({1: QUIET, 2: loud, 3: loud})
    assert flag.startswith("Layers 2 to 3: ")
    assert "up to 85 times the median, in up to 16 of 16 windows" in flag
    assert said in flag


def test_massive_tokens_beyond_position_0_are_counted_apart():
    loud = {**QUIET, "massive_tokens": 19, "massive_at_position_0": 16, "position_0_norm_ratio": 30.0}
    flags = layer_flags({5: loud})
    assert len(flags) == 2
    assert "up to 3 of 2,032 tokens beyond position 0" in flags[1]
