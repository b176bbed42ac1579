"""Slow references and small real stores for the geometry tests."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl

from dihal_core.config import GeometrySettings


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Matrices here are small: more BLAS threads only wait for one another."""
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield


def _script():
    spec = importlib.util.spec_from_file_location("geometry_script", Path(__file__).with_name("geometry_script.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def script():
    """The helpers of `geometry_script.py`, which a test also runs as a program of its own."""
    return _script()


def _neighbours(x_ND, row, settings):
    if settings.metric == "cosine":
        unit_ND = x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)
        distance_N = ((unit_ND - unit_ND[row]) ** 2).sum(axis=1)
    else:
        distance_N = ((x_ND - x_ND[row]) ** 2).sum(axis=1)
    distance_N[row] = np.inf
    near = np.argsort(distance_N, kind="stable")[: settings.k]
    return np.r_[row, near] if settings.include_self else near


def _spread(block, settings):
    variance = np.linalg.svd(block - block.mean(axis=0), compute_uv=False) ** 2 / (len(block) - 1)
    forms = {"inverse_top": variance[0], "inverse_trace": variance.sum(), "k_over_trace": variance.sum() / settings.k}
    return forms[settings.curvature_form]


def _proxies(x_ND, pairs_M2, settings, eps_of):
    n = len(x_ND)
    _, singular, basis_RD = np.linalg.svd(x_ND - x_ND.mean(axis=0), full_matrices=False)
    variance_R = singular**2 / (n - 1)
    eps = eps_of(variance_R.sum())
    local_N = np.array([_spread(x_ND[_neighbours(x_ND, row, settings)], settings) for row in range(n)])
    difference_MD = x_ND[pairs_M2[:, 0]] - x_ND[pairs_M2[:, 1]]
    squared_M = (difference_MD**2).sum(axis=1)
    coordinates_MR = (difference_MD[squared_M > 0] @ basis_RD.T) ** 2
    return {
        "curvature": float(np.median(1.0 / (local_N + eps))),
        "monotonicity": float(np.median(coordinates_MR @ (1.0 / (variance_R + eps)) / squared_M[squared_M > 0])),
        "effective_rank": float(variance_R.sum() / variance_R[0]),
    }


@pytest.fixture(scope="session")
def slow_reference():
    """Proxies from singular values of rows, point by point; no Gram matrix, no Cholesky, no inverse."""

    def measure(x_ND, pairs_M2, settings: GeometrySettings):
        x_ND = np.asarray(x_ND, dtype=np.float64)
        if settings.scaling == "token_rms":
            x_ND = x_ND / np.sqrt((x_ND**2).mean(axis=1, keepdims=True))

        def relative(trace):
            return settings.eps_relative * trace / x_ND.shape[1]

        scaled_ND = x_ND
        if settings.scaling == "unit_trace":
            scaled_ND = x_ND / np.sqrt(np.var(x_ND, axis=0, ddof=1).sum())
        headline = relative if settings.ridge == "relative" else lambda trace: settings.eps
        return {
            "headline": _proxies(scaled_ND, pairs_M2, settings, headline),
            "relative": _proxies(x_ND, pairs_M2, settings, relative),
        }

    return measure


@pytest.fixture(scope="session")
def all_pairs():
    """Up to `limit` different pairs of n rows."""

    def draw(n: int, rng: np.random.Generator, limit: int = 1500) -> np.ndarray:
        pairs = np.stack(np.triu_indices(n, 1), axis=1)
        return pairs[np.sort(rng.permutation(len(pairs))[:limit])]

    return draw


@pytest.fixture(scope="session")
def geometry_records(script, tmp_path_factory):
    """Geometry of layers 0..5 of a five-layer backbone."""
    home = tmp_path_factory.mktemp("study")
    activations = script.write_activations(home)
    return {layer: script.build(home, activations, layer) for layer in script.LAYERS}


@pytest.fixture(scope="session")
def score_record(script, geometry_records, tmp_path_factory):
    return script.build_scores(tmp_path_factory.mktemp("score"), geometry_records)
