"""Intervals from replicates."""

import numpy as np
import pytest

from dihal_core.geometry.intervals import interval


def test_intervals_are_percentiles_with_a_standard_error_or_absent():
    assert interval(0.5, np.linspace(0, 1, 101), 0.9) == {
        "value": 0.5,
        "low": pytest.approx(0.05),
        "high": pytest.approx(0.95),
        "se": pytest.approx(np.linspace(0, 1, 101).std(ddof=1)),
    }
    assert interval(0.5, np.zeros(0), 0.9) == {"value": 0.5, "low": None, "high": None, "se": None}
