import numpy as np
import pytest
import torch

from dihal_core.bridges.standardise import Standardiser, fit_statistics, state_mask
from dihal_core.errors import NumericsError


def test_the_mask_leaves_out_the_sink_and_the_padding():
    assert state_mask(torch.tensor([4, 2]), 5).int().tolist() == [[0, 1, 1, 1, 0], [0, 1, 0, 0, 0]]


def test_statistics_equal_numpy_whatever_the_chunks():
    rows = torch.randn(501, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7) * 100 + 3000
    one, many = fit_statistics([rows], "x"), fit_statistics(rows.split(17), "x")
    assert np.allclose(one.mean_D, rows.double().numpy().mean(0), rtol=1e-12)
    assert np.allclose(one.scale_D, rows.double().numpy().std(0), rtol=1e-9)
    assert np.allclose(one.scale_D, many.scale_D, rtol=1e-9)
    assert many.rows == 501


def test_standardising_and_back_is_the_identity_and_gives_unit_scale():
    rows = torch.randn(300, 5) * torch.tensor([1.0, 10, 100, 1e3, 1e4]) + 50
    standardiser = Standardiser.of(fit_statistics([rows], "x"))
    z = standardiser(rows)
    assert torch.allclose(z.std(0, correction=0), torch.ones(5), atol=1e-4)
    assert torch.allclose(standardiser.inverse(z), rows, rtol=1e-4, atol=1e-3)
    assert not list(standardiser.parameters())


def test_a_dimension_that_never_moves_does_not_divide_by_zero():
    rows = torch.randn(50, 3)
    rows[:, 1] = 7.0
    z = Standardiser.of(fit_statistics([rows], "x"))(rows)
    assert torch.isfinite(z).all()
    assert float(z[:, 1].abs().max()) < 1e-3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_state_that_is_not_finite_is_named(bad):
    rows = torch.randn(50, 3)
    rows[4, 2] = bad
    with pytest.raises(NumericsError, match="layer 8: a state is not finite"):
        fit_statistics([rows], "layer 8")


def test_too_few_or_constant_states_are_refused():
    with pytest.raises(NumericsError, match="at least 2 states, got 1"):
        fit_statistics([torch.randn(1, 3)], "layer 2")
    with pytest.raises(NumericsError, match="no dimension varies over 9"):
        fit_statistics([torch.ones(9, 3)], "layer 2")
