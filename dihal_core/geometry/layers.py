"""Score arrays that somebody already has: hidden states of several layers in, proxies and scores out.

No study, no store: the public counterpart of the geometry and score stages for one set of rows.

Letters: L layers, N rows, D columns, M pairs.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import psutil

from dihal_core.config import ProxySettings
from dihal_core.errors import ConfigError, ResourceError
from dihal_core.geometry.draws import distinct_pairs
from dihal_core.geometry.proxies import PROXIES, Proxies, measure
from dihal_core.geometry.rows import require_rows
from dihal_core.geometry.scoring import score_proxies
from dihal_core.seeding import stream

NUM_PAIRS = 5000
"""Pairs that are drawn where none are given (ours)."""
NAMES = {"local_curvature": "curvature", "monotonicity": "monotonicity", "effective_rank": "effective_rank"}
"""Name in results that leave the project -> name in `PROXIES`."""
HiddenStates = Mapping[int, np.ndarray] | np.ndarray


@dataclasses.dataclass(frozen=True)
class ScoredLayers:
    """Proxies and scores of the supplied layers."""

    proxies: Mapping[int, Proxies]
    """By layer index, in order."""
    scores: Mapping[int, float]
    """S of every candidate; 0 where there is one candidate only, since no z-score can tell it from others."""
    selected: int
    """The candidate with the largest score; the lowest index of equals."""
    constant: tuple[str, ...]
    """Proxies that do not vary over the candidates and contribute 0."""
    settings: Mapping[str, Any]
    """Every choice behind the numbers, pairs and seed included."""

    def notes(self) -> list[str]:
        """Return sentences about what makes these numbers doubtful: constant proxies, identical rows."""
        found = []
        if len(self.proxies) > 1:
            found += [f"{name} does not vary over the layers and adds nothing to the score" for name in self.constant]
        for index, proxies in self.proxies.items():
            if proxies.headline["curvature"] >= 0.5 / self.settings["eps"]:
                found.append(
                    f"layer {index}: in most neighbourhoods nothing varies by more than eps (identical rows, or activations as small "
                    "as that); its curvature is 1 / eps and no finding"
                )
            elif proxies.dropped_pairs:
                found.append(f"layer {index}: {proxies.dropped_pairs} pairs join identical rows and were dropped")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return `{"settings", "layers": [{"index", <proxies>, "score"}], "selected"}`."""
        return {
            "settings": dict(self.settings),
            "layers": [
                {
                    "index": index,
                    **{name: found.headline[proxy] for name, proxy in NAMES.items()},
                    "score": self.scores.get(index),
                }
                for index, found in self.proxies.items()
            ],
            "selected": self.selected,
        }


def score_layers(
    hidden_states: HiddenStates,
    pairs_M2: np.ndarray | None = None,
    settings: ProxySettings | None = None,
    *,
    candidates: Iterable[int] | None = None,
    transform: str = "linear",
    num_pairs: int = NUM_PAIRS,
    seed: int = 0,
) -> ScoredLayers:
    """Measure every layer on the same rows and pairs and score the candidates (paper section 2).

    Parameters
    ----------
    hidden_states : mapping of int to ndarray (N, D), or ndarray (L, N, D) or (N, D)
        One array per layer; row i must be the same token in all of them. Indices of an array are positions.
    pairs_M2 : ndarray of int, shape (M, 2), optional
        Row pairs of the monotonicity proxy; drawn from `seed` where absent.
    settings : ProxySettings, optional
        Every open choice of the paper. Default: the project's defaults.
    candidates : iterable of int, optional
        Layers that are z-scored against one another; all by default.
    transform : str
        `linear` or `log`: what enters the z-scores.
    num_pairs : int
        Pairs to draw where none are given; all pairs where there are fewer.
    seed : int
        Root of the pair draw.

    Returns
    -------
    ScoredLayers

    Raises
    ------
    ConfigError
        No layer, arrays that differ in rows, unknown candidates, impossible pairs, fewer than k + 2 rows.
    NumericsError
        NaN or inf (layer and row are named), a layer without variance.
    ResourceError
        If the N x N matrices do not fit into memory.
    """
    settings = ProxySettings() if settings is None else settings  # pyright: ignore[reportCallIssue]
    layers = _by_index(hidden_states)
    chosen = sorted(layers) if candidates is None else sorted(set(candidates))
    unknown = [layer for layer in chosen if layer not in layers]
    if unknown or not chosen:
        raise ConfigError(f"candidate layers {unknown or 'none'} of the supplied {sorted(layers)}; choose among these")
    num_rows = len(next(iter(layers.values())))
    for layer in sorted(layers):
        require_rows(layers[layer], settings.k, f"layer {layer}")
    require_memory(num_rows, settings)
    given = pairs_M2 is not None
    pairs_M2 = draw_pairs(num_rows, num_pairs, seed) if pairs_M2 is None else np.asarray(pairs_M2)
    proxies = {layer: measure(layers[layer], pairs_M2, settings, f"layer {layer}") for layer in sorted(layers)}
    values = {name: np.array([[proxies[layer].headline[name]] for layer in chosen]) for name in PROXIES}
    scores, selected, constant = {chosen[0]: 0.0}, chosen[0], tuple(PROXIES)
    if len(chosen) > 1:
        found = score_proxies(values, transform=transform)
        scores = {layer: float(value) for layer, value in zip(chosen, found.score_L, strict=True)}
        selected, constant = chosen[found.selected], found.constant
    facts = {
        **{name: getattr(settings, name) for name in ProxySettings.model_fields},
        "transform": transform,
        "rows": num_rows,
        "num_pairs": len(pairs_M2),
        "pairs": "given" if given else f"drawn with seed {seed}",
    }
    return ScoredLayers(proxies, scores, selected, constant, facts)


def _by_index(hidden_states: HiddenStates) -> dict[int, np.ndarray]:
    if isinstance(hidden_states, Mapping):
        layers = {int(index): np.asarray(array) for index, array in hidden_states.items()}
    else:
        array = np.asarray(hidden_states)
        if array.ndim not in (2, 3):
            raise ConfigError(
                f"got an array of shape {array.shape}; pass (rows, dimensions) or (layers, rows, dimensions)"
            )
        layers = dict(enumerate(array if array.ndim == 3 else array[None]))
    if not layers:
        raise ConfigError("got no layer; pass at least one array of shape (rows, dimensions)")
    shapes = {index: array.shape for index, array in layers.items()}
    wrong = [index for index, shape in shapes.items() if len(shape) != 2]
    if wrong:
        raise ConfigError(f"layer {wrong[0]} has shape {shapes[wrong[0]]}; pass (rows, dimensions)")
    if len({shape[0] for shape in shapes.values()}) > 1:
        raise ConfigError(
            f"layers have different numbers of rows ({shapes}); row i must be the same token in all layers"
        )
    return layers


def draw_pairs(num_rows: int, num_pairs: int = NUM_PAIRS, seed: int = 0) -> np.ndarray:
    """Return up to `num_pairs` distinct pairs of rows, the same for every layer, shape (M, 2)."""
    possible = num_rows * (num_rows - 1) // 2
    return distinct_pairs(num_rows, min(num_pairs, possible), stream(seed, "geometry", "array pairs"))


def require_memory(num_rows: int, settings: ProxySettings) -> None:
    """Raise `ResourceError` if the N x N float64 matrices of one layer exceed the free memory."""
    needed = (4 if settings.metric == "cosine" else 3) * 8 * num_rows**2
    free = psutil.virtual_memory().available
    if needed > free:
        raise ResourceError(
            f"{num_rows} rows need about {needed / 1e9:.0f} GB for their Gram matrices and {free / 1e9:.0f} GB are free; "
            "pass a random subset of the rows, the paper uses 3,000"
        )
