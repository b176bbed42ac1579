"""The lock-free routines compute what NumPy computes, and one thread limit serves all."""

import threading

import numpy as np
import pytest
import threadpoolctl

from dihal_core.errors import NumericsError
from dihal_core.geometry.blas import (
    blas_threads,
    cholesky,
    inverse_from_cholesky,
    inverse_of_factor,
    symv,
    syrk_columns,
    unwhiten_rows,
    whiten_rows,
)


def test_products_and_factors_equal_numpy():
    rng = np.random.default_rng(0)
    x_ND = rng.standard_normal((50, 13))
    gram_DD = x_ND.T @ x_ND
    upper_DD = syrk_columns(x_ND, 0.5)
    assert np.allclose(upper_DD, np.triu(0.5 * gram_DD), rtol=1e-13, atol=1e-13)
    assert np.allclose(symv(upper_DD, x_ND[0]), 0.5 * gram_DD @ x_ND[0], rtol=1e-12)
    factor_DD = cholesky(gram_DD.copy())
    assert np.allclose(np.triu(factor_DD).T @ np.triu(factor_DD), gram_DD, rtol=1e-12)
    inverse_DD = inverse_from_cholesky(factor_DD.copy())
    assert np.allclose(np.triu(inverse_DD), np.triu(np.linalg.inv(gram_DD)), rtol=1e-9)
    for dtype, tolerance in ((np.float64, 1e-11), (np.float32, 1e-3)):
        rows_DD = np.triu(inverse_of_factor(factor_DD.astype(dtype))).astype(np.float64)
        assert np.allclose(rows_DD @ rows_DD.T, np.linalg.inv(gram_DD), rtol=100 * tolerance, atol=tolerance)
        white_ND = whiten_rows(factor_DD.astype(dtype), x_ND.astype(dtype))
        expected_N = np.einsum("nd,de,ne->n", x_ND, np.linalg.inv(gram_DD), x_ND)
        assert np.allclose((white_ND.astype(np.float64) ** 2).sum(axis=1), expected_N, rtol=tolerance)
        solved_ND = unwhiten_rows(factor_DD.astype(dtype), white_ND.copy())
        assert np.allclose(solved_ND, x_ND @ np.linalg.inv(gram_DD), rtol=tolerance, atol=tolerance)


def test_an_indefinite_matrix_is_an_error_not_a_number():
    with pytest.raises(NumericsError, match="not positive definite at pivot 2"):
        cholesky(np.diag([1.0, -1.0, 1.0]))


def test_arrays_of_another_layout_are_refused():
    with pytest.raises(TypeError, match="C-contiguous float64"):
        syrk_columns(np.asfortranarray(np.ones((3, 2))))


def numpy_threads():
    return {info["num_threads"] for info in threadpoolctl.threadpool_info() if info["user_api"] == "blas"}


def test_the_limit_lasts_until_its_last_holder_leaves_and_is_then_lifted():
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with blas_threads(1):
            inside.set()
            leave.wait(10)

    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        other = threading.Thread(target=hold)
        other.start()
        assert inside.wait(10)
        with blas_threads(1):
            assert numpy_threads() == {1}
        assert numpy_threads() == {1}
        leave.set()
        other.join()
        assert numpy_threads() == {2}
