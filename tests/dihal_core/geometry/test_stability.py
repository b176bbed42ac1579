"""Rank agreement of overlapping subsamples."""

import numpy as np
import pytest

from dihal_core.geometry.stability import _between


def test_subsamples_are_compared_with_each_other_too():
    score_LS = np.array([[3.0, 3.0, 1.0], [2.0, 2.0, 2.0], [1.0, 1.0, 3.0]])
    assert _between(score_LS) == {"spearman": pytest.approx(-1 / 3), "kendall": pytest.approx(-1 / 3)}
    assert _between(score_LS[:, :1]) == {"spearman": None, "kendall": None}
