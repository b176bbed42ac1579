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


@pytest.fixture(scope="session")
def slow_reference():
    """Proxies from singular values of rows, point by point; no Gram matrix, no Cholesky, no inverse."""

    def measure(x_ND, pairs_M2, settings: GeometrySettings):
        x_ND = np.asarray(x_ND, dtype=np.float64)
        n, d = x_ND.shape
        _, singular, basis_RD = np.linalg.svd(x_ND - x_ND.mean(axis=0), full_matrices=False)
        variance_R = singular**2 / (n - 1)
        trace = variance_R.sum()
        local_N = []
        for row in range(n):
            distance_N = ((x_ND - x_ND[row]) ** 2).sum(axis=1)
            distance_N[row] = np.inf
            members = np.r_[row, np.argsort(distance_N, kind="stable")[: settings.k]]
            block = x_ND[members] - x_ND[members].mean(axis=0)
            local_N.append(np.linalg.svd(block, compute_uv=False)[0] ** 2 / settings.k)
        difference_MD = x_ND[pairs_M2[:, 0]] - x_ND[pairs_M2[:, 1]]
        squared_M = (difference_MD**2).sum(axis=1)
        coordinates_MR = (difference_MD[squared_M > 0] @ basis_RD.T) ** 2
        found = {}
        for name, eps in (("absolute", settings.eps), ("relative", settings.eps_relative * trace / d)):
            ratio_M = coordinates_MR @ (1.0 / (variance_R + eps)) / squared_M[squared_M > 0]
            found[name] = {
                "curvature": float(np.median(1.0 / (np.array(local_N) + eps))),
                "monotonicity": float(np.median(ratio_M)),
                "effective_rank": float(trace / variance_R[0]),
            }
        return found

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
