"""Layer metrics beside the paper's three: one entry each, with its source.

`takes` says what `compute` is called with:

- `rows`: (view,) of one layer, see `LayerView`; the Gram matrix and neighbours are those of the proxies.
- `layers`: ({index: LayerView.summary()},), a matrix over layers.
- `sequences`: (states (N, T, D), lengths (N,) or None).
- `embedding`: (embedding output (N, E), hidden states (N, D), documents (N,) or None).
- `head`: (hidden states (N, D), callable to logits, next tokens (N,)).

A metric of one's own is one more entry.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np

from dihal_core.config import ProxySettings
from dihal_core.errors import NumericsError
from dihal_core.geometry.metrics import dimension, predict, sequences, similarity, spectral
from dihal_core.geometry.metrics.view import LayerSummary, LayerView
from dihal_core.geometry.pool import GramPool


@dataclasses.dataclass(frozen=True)
class LayerMetric:
    """One metric of a layer, or of all pairs of layers."""

    takes: Literal["rows", "layers", "sequences", "embedding", "head"]
    compute: Callable[..., Any]
    unit: str
    source: str
    meaning: str


def _cka(layers: Mapping[int, LayerSummary]) -> np.ndarray:
    return similarity.cka_matrix({index: layer.centred_ND for index, layer in layers.items()})


def _overlap(layers: Mapping[int, LayerSummary]) -> np.ndarray:
    return similarity.overlap_matrix({index: layer.neighbours_Nk for index, layer in layers.items()})


def _dimension_k(view: LayerView) -> float:
    return dimension.levina_bickel(view.distance_NK, min(view.pool.k, view.distance_NK.shape[1]))


GRIDE_SCALES = (2, 4, 8, 16, 32)
RENYI = "Renyi 1961; matrix form: Giraldo et al. 2014, Skean et al. 2025 (arXiv 2502.02013)"

METRICS: dict[str, LayerMetric] = {
    "renyi_rank_1": LayerMetric(
        "rows", lambda view: spectral.renyi_rank(spectral.shares(view), 1), "1", RENYI,
        "exp of the Shannon entropy of the variance shares (matrix entropy of the covariance)",
    ),
    "participation_ratio": LayerMetric(
        "rows", lambda view: spectral.renyi_rank(spectral.shares(view), 2), "1", "Gao et al. 2017; Renyi order 2",
        "(sum l)^2 / sum l^2",
    ),
    "renyi_rank_inf": LayerMetric(
        "rows", lambda view: spectral.renyi_rank(spectral.shares(view), np.inf), "1", "paper section 2; Renyi order inf",
        "trace / largest variance: the effective rank of the score",
    ),
    "rankme": LayerMetric(
        "rows", spectral.rankme, "1", "Garrido et al. 2023 (arXiv 2210.02885)",
        "exp of the entropy of the singular values (not squared, rows not centred)",
    ),
    "components_90": LayerMetric(
        "rows", lambda view: spectral.components_for(spectral.shares(view), 0.9), "1", "principal components",
        "components that carry 90 % of the variance",
    ),
    "powerlaw_alpha": LayerMetric(
        "rows", lambda view: spectral.powerlaw_alpha(view.variances_R), "1", "Stringer et al. 2019",
        "decay of the variances, l_i ~ i^-alpha",
    ),
    "anisotropy": LayerMetric(
        "rows", spectral.anisotropy, "1", "Ethayarajh 2019 (arXiv 1909.00512)", "mean cosine of pairs of rows as stored",
    ),
    "anisotropy_centred": LayerMetric(
        "rows", spectral.anisotropy_centred, "1", "after Mu and Viswanath 2018", "mean cosine about the common mean",
    ),
    "kurtosis": LayerMetric(
        "rows", spectral.kurtosis, "1", "fourth moment", "mean over columns of E[x^4] / E[x^2]^2; 3 for a Gaussian",
    ),
    "dimension_twonn": LayerMetric(
        "rows", lambda view: dimension.twonn(view.distance_NK), "1", "Facco et al. 2017",
        "intrinsic dimension from the first two neighbours",
    ),
    **{
        f"dimension_gride_{scale}": LayerMetric(
            "rows", lambda view, scale=scale: dimension.gride(view.distance_NK, scale), "1",
            "Denti et al. 2022 (GRIDE)", f"intrinsic dimension from neighbours {scale} and {2 * scale}",
        )
        for scale in GRIDE_SCALES
    },
    "dimension_mle": LayerMetric(
        "rows", _dimension_k, "1", "Levina and Bickel 2004, MacKay's average",
        "intrinsic dimension from the k neighbours of the proxies",
    ),
    "cka": LayerMetric(
        "layers", _cka, "1", "Kornblith et al. 2019; unbiased HSIC: Song et al. 2012", "debiased linear CKA of two layers",
    ),
    "neighbour_overlap": LayerMetric(
        "layers", _overlap, "1", "Doimo et al. 2020", "mean share of the k neighbours that two layers have in common",
    ),
    "prompt_entropy": LayerMetric(
        "sequences", sequences.prompt_entropy, "nat", RENYI, "matrix entropy of the tokens of one sequence",
    ),
    "prompt_curvature": LayerMetric(
        "sequences", sequences.prompt_curvature, "radian", "Hosseini and Fedorenko 2023; Skean et al. 2025",
        "mean angle between consecutive steps of a sequence",
    ),
    "ridge_r2": LayerMetric(
        "embedding", predict.ridge_r2, "1", "ours: a rival of the score that needs no geometry",
        "held-out R^2 of a ridge map from the embedding output",
    ),
    "logit_lens_ce": LayerMetric(
        "head", predict.logit_lens_ce, "nat", "nostalgebraist 2020 (logit lens)",
        "cross-entropy of reading the layer with the final norm and LM head",
    ),
}  # fmt: skip


def view_of(hidden_states_ND: np.ndarray, settings: ProxySettings | None = None, label: str = "x") -> LayerView:
    """Return the view of one layer's rows that metrics of `rows` and `layers` take.

    Raises
    ------
    ConfigError, NumericsError
        As `dihal_core.geometry.measure`.
    """
    settings = settings or ProxySettings()  # pyright: ignore[reportCallIssue]
    return LayerView(GramPool(hidden_states_ND, settings, label=label))


def measure_metrics(view: LayerView, names: tuple[str, ...] | None = None) -> dict[str, float | None]:
    """Return the metrics of `rows` (all, or `names`) of one layer; None where one is undefined for these rows."""
    chosen = names or tuple(name for name, metric in METRICS.items() if metric.takes == "rows")
    return {name: _or_none(partial(METRICS[name].compute, view)) for name in chosen}


def _or_none(compute: Callable[[], float]) -> float | None:
    try:
        return compute()
    except NumericsError:
        return None
