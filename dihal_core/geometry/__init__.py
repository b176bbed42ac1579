"""Locate: the three geometry proxies, the paper's subsample protocol, the score, its agreement with bridge losses.

Public entries, usable without a study:

- `measure(hidden_states_ND, pairs_M2, settings)` measures one layer: three proxies and diagnostics.
- `score_layers({index: hidden_states_ND})`, or with an array (layers, n, d), scores several layers.
- `ProxySettings` holds every choice the paper leaves open, each with its default and meaning.
- `PROXIES` is the table of the proxies; `METRICS` the table of further layer metrics.

>>> import numpy as np
>>> layers = np.random.default_rng(0).standard_normal((3, 200, 16)) * np.array([1.0, 2.0, 4.0])[:, None, None]
>>> score_layers(layers).selected
0
"""

from dihal_core.config import ProxySettings
from dihal_core.geometry.layers import ScoredLayers, score_layers
from dihal_core.geometry.metrics import METRICS, measure_metrics
from dihal_core.geometry.proxies import PROXIES, Proxies, measure

__all__ = [
    "METRICS",
    "PROXIES",
    "Proxies",
    "ProxySettings",
    "ScoredLayers",
    "measure",
    "measure_metrics",
    "score_layers",
]
