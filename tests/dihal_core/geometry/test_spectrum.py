"""The leading eigenvalue by Lanczos equals the dense solver's."""

import numpy as np
import pytest

from dihal_core.geometry.spectrum import fixed_start, top_eigenvalue

SPECTRA = {
    "decaying": np.geomspace(100.0, 1e-3, 80),
    "flat": np.ones(80),
    "nearly flat": np.linspace(1.0, 1.0001, 80),
    "double top": np.r_[5.0, 5.0, np.linspace(0, 1, 78)],
    "close top": np.r_[5.0, 5.0 - 1e-9, np.linspace(0, 1, 78)],
    "rank one": np.r_[3.0, np.zeros(79)],
    "spread": np.geomspace(1e12, 1e-6, 80),
}


@pytest.mark.parametrize("name", sorted(SPECTRA))
def test_the_largest_eigenvalue_is_found_for(name):
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.standard_normal((80, 80)))[0]
    matrix = (basis * SPECTRA[name]) @ basis.T
    value, vector = top_eigenvalue(lambda v: matrix @ v, fixed_start(80), lambda: matrix)
    assert value == pytest.approx(SPECTRA[name].max(), rel=2e-10)
    assert np.linalg.norm(vector) == pytest.approx(1.0, rel=1e-9)
    assert vector @ matrix @ vector == pytest.approx(value, rel=1e-9)


def test_a_large_flat_spectrum_falls_back_to_the_dense_solver():
    rng = np.random.default_rng(2)
    x_ND = rng.standard_normal((900, 450))
    matrix = x_ND.T @ x_ND
    value, _ = top_eigenvalue(lambda v: matrix @ v, fixed_start(450), lambda: matrix)
    assert value == pytest.approx(np.linalg.eigvalsh(matrix)[-1], rel=1e-11)


def test_one_dimension_is_its_own_eigenvalue():
    assert top_eigenvalue(lambda v: 4.0 * v, fixed_start(1), lambda: np.array([[4.0]]))[0] == pytest.approx(4.0)
