"""S(l) = z(curvature) + z(monotonicity) - z(effective rank) over the candidate layers.

Paper section 2: z over the candidate layers, the layer with the largest S is selected, and S is never
fitted to bridge losses. Ours: z with ddof 0 inside each subsample, then the mean of S over the large
subsamples; ties go to the lower layer.

Letters: L candidate layers, S subsamples.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dihal_core.errors import ConfigError, NumericsError
from dihal_core.geometry.proxies import PROXIES

Values = Mapping[str, np.ndarray]
"""Proxy name -> values (L, S)."""
TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"linear": lambda values: values, "log": np.log}
AGGREGATES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "mean_of_scores": lambda score_LS, score_of_means_L: score_LS.mean(axis=1),
    "score_of_means": lambda score_LS, score_of_means_L: score_of_means_L,
}


@dataclasses.dataclass(frozen=True)
class LayerScores:
    """Scores of the candidate layers."""

    score_LS: np.ndarray
    """S inside each subsample."""
    score_L: np.ndarray
    """Mean over subsamples."""
    selected: int
    """Position of the largest mean score; the first of equals."""
    constant: tuple[str, ...]
    """Proxies that do not vary over layers in some subsample: they contribute 0 there."""


Combine = Callable[[Values], LayerScores]
"""`score_proxies` with the study's choices."""


def zscore(values_LS: np.ndarray) -> np.ndarray:
    """Return z-scores over layers (axis 0, ddof 0); 0 where a column is constant up to rounding."""
    mean_S, std_S = values_LS.mean(axis=0), values_LS.std(axis=0)
    varies_S = _varies(values_LS)
    return np.where(varies_S, (values_LS - mean_S) / np.where(varies_S, std_S, 1.0), 0.0)


def _varies(values_LS: np.ndarray) -> np.ndarray:
    return values_LS.std(axis=0) > 1e-12 * np.abs(values_LS).max(axis=0)


def score_proxies(values: Values, aggregate: str = "mean_of_scores", transform: str = "linear") -> LayerScores:
    """Return the score of every candidate layer.

    Parameters
    ----------
    values : mapping
        One array (L, S) per name in `PROXIES`: candidate layers by subsamples.
    aggregate : str
        `mean_of_scores`: z-scores inside each subsample, then the mean of the scores; `score_of_means`:
        z-scores of the means over subsamples.
    transform : str
        `linear` or `log`: the proxies or their logarithms enter the z-scores.

    Raises
    ------
    ConfigError
        A proxy is missing or the arrays differ in shape; fewer than two layers; an unknown choice.
    NumericsError
        A value is NaN or inf (proxy and position are named), or not positive under `log`.
    """
    if set(values) != set(PROXIES):
        raise ConfigError(f"got proxies {sorted(values)}; the score needs exactly {sorted(PROXIES)}")
    arrays = {name: np.asarray(array, dtype=np.float64) for name, array in values.items()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2 or 0 in next(iter(shapes)):
        raise ConfigError(f"got arrays of shapes {sorted(shapes)}; pass the same (layers, subsamples) for every proxy")
    if next(iter(shapes))[0] < 2:
        raise ConfigError("one candidate layer has no z-score; pass at least two layers")
    if aggregate not in AGGREGATES or transform not in TRANSFORMS:
        raise ConfigError(
            f"got aggregate {aggregate!r} and transform {transform!r}; choose from {', '.join(AGGREGATES)} "
            f"and {', '.join(TRANSFORMS)}"
        )
    for name, array_LS in arrays.items():
        usable_LS = np.isfinite(array_LS) & ((array_LS > 0) | (transform == "linear"))
        if not usable_LS.all():
            layer, sample = np.argwhere(~usable_LS)[0]
            raise NumericsError(f"{name} of layer position {layer}, subsample {sample} is {array_LS[layer, sample]}")
    mean = {name: TRANSFORMS[transform](array_LS.mean(axis=1, keepdims=True)) for name, array_LS in arrays.items()}
    arrays = {name: TRANSFORMS[transform](array_LS) for name, array_LS in arrays.items()}
    score_LS = _signed_sum(arrays)
    score_L = AGGREGATES[aggregate](score_LS, _signed_sum(mean)[:, 0])
    constant = tuple(name for name in PROXIES if not _varies(arrays[name]).all())
    return LayerScores(score_LS, score_L, int(score_L.argmax()), constant)


def _signed_sum(arrays: Values) -> np.ndarray:
    return np.sum([proxy.sign * zscore(arrays[name]) for name, proxy in PROXIES.items()], axis=0)


def candidate_values(
    tables: Mapping[int, Any], layers: list[int], group: str, suffix: str = ""
) -> dict[str, np.ndarray]:
    """Return the proxies of some layers from their tables (`read_table`), (L, S) each; `suffix` names the ridge."""
    return {name: np.array([tables[layer][group][f"{name}{suffix}"] for layer in layers]) for name in PROXIES}
