"""Metrics of whole sequences: closed forms."""

import numpy as np
import pytest

from dihal_core.errors import ConfigError, NumericsError
from dihal_core.geometry.metrics.sequences import prompt_curvature, prompt_entropy


def test_entropy_of_orthogonal_tokens_is_the_log_of_their_number_and_of_equal_ones_zero():
    assert prompt_entropy(3.0 * np.eye(6)[None]) == pytest.approx(np.log(6))
    assert prompt_entropy(np.ones((1, 6, 4))) == pytest.approx(0.0, abs=1e-9)
    both = np.stack([np.eye(6), np.ones((6, 6))])
    assert prompt_entropy(both) == pytest.approx(np.log(6) / 2)


def test_entropy_is_that_of_the_squared_singular_values_whichever_side_is_longer():
    for shape in ((7, 4), (4, 7)):
        z_TD = np.random.default_rng(0).standard_normal(shape)
        share = np.linalg.svd(z_TD, compute_uv=False) ** 2
        share /= share.sum()
        assert prompt_entropy(z_TD[None]) == pytest.approx(-(share * np.log(share)).sum())


def test_a_line_has_no_curvature_a_square_right_angles_and_a_zigzag_half_turns():
    line = np.outer(np.arange(5.0), [1.0, 2.0])
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]], dtype=float)
    zigzag = np.array([[0.0], [1.0], [0.0], [1.0]])
    assert prompt_curvature(line[None]) == pytest.approx(0.0, abs=1e-7)
    assert prompt_curvature(square[None]) == pytest.approx(np.pi / 2)
    assert prompt_curvature(zigzag[None]) == pytest.approx(np.pi)
    assert prompt_curvature(np.stack([line, square])) == pytest.approx(np.pi / 4)


def test_padding_beyond_a_length_is_not_seen():
    rng = np.random.default_rng(1)
    states = rng.standard_normal((2, 8, 3))
    padded = np.concatenate([states, np.full((2, 4, 3), np.nan)], axis=1)
    for metric in (prompt_entropy, prompt_curvature):
        assert metric(padded, np.array([8, 8])) == metric(states)
        assert metric(padded, np.array([8, 5])) == pytest.approx((metric(states[:1]) + metric(states[1:, :5])) / 2)


def test_repeated_states_have_no_direction_and_what_cannot_be_measured_is_refused():
    square = np.array([[0, 0], [1, 0], [1, 0], [1, 1], [0, 1]], dtype=float)
    assert prompt_curvature(square[None]) == pytest.approx(np.pi / 2)
    with pytest.raises(NumericsError, match="no sequence has two steps"):
        prompt_curvature(np.ones((2, 5, 3)))
    with pytest.raises(NumericsError, match="all sequences are zero"):
        prompt_entropy(np.zeros((2, 5, 3)))
    with pytest.raises(ConfigError, match="no sequence has 3 positions"):
        prompt_curvature(np.ones((2, 5, 3)), np.array([2, 1]))
    with pytest.raises(ConfigError, match="pass .sequences, positions, dimensions."):
        prompt_entropy(np.ones((5, 3)))
    with pytest.raises(ConfigError, match="pass 0..5 each"):
        prompt_entropy(np.ones((2, 5, 3)), np.array([6, 5]))
