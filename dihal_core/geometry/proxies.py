"""The three geometry proxies of one set of rows, exactly as we read the paper (arXiv 2605.14368, section on Locate).

For rows x_1..x_n with ddof-1 covariance Sigma and ridge eps:

- curvature      kappa = median_i 1 / (lambda_max(Sigma_i) + eps), Sigma_i = ddof-1 covariance, about its own
  mean, of x_i and its k nearest other rows. The paper's formula is lost in our copy; this is the Gaussian
  analogue of a strong-convexity constant (ours). `curvature_form` offers two others.
- monotonicity   m = median over pairs of (x_i - x_j)^T (Sigma + eps I)^-1 (x_i - x_j) / |x_i - x_j|^2; pairs of
  identical rows are dropped (ours).
- effective rank r = tr(Sigma) / lambda_max(Sigma).

Medians of an even count are the mean of the two middle values (NumPy's convention; torch.median takes the lower).
The score adds the z-scores with the signs in `PROXIES`. Every quantity is also given under a ridge
relative to tr(Sigma) / D, which makes it independent of the unit of the activations. What else the
paper leaves open is a field of `dihal_core.config.ProxySettings`.

Letters: N rows, D columns, M pairs.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from dihal_core.config import ProxySettings
from dihal_core.errors import NumericsError
from dihal_core.geometry.pool import GramPool, Sample


@dataclasses.dataclass(frozen=True)
class Proxy:
    """One term of the score."""

    measure: Callable[[Sample, float], float]
    """(sample, eps) -> value."""
    sign: int
    """+1 if more is better for a bridge, -1 if less is."""
    unit: str
    scale_free: bool = False
    """Rows times c leave it as it is; the others are divided by c^2 when eps is multiplied by c^2."""


def curvature(sample: Sample, eps: float) -> float:
    """Return the median over points of 1 / (local spread + eps); the spread is the one of `curvature_form`."""
    low, high = sample.local_middle
    return 0.5 * (1.0 / (low + eps) + 1.0 / (high + eps))


def monotonicity(sample: Sample, eps: float) -> float:
    """Return the median pair stiffness under (Sigma + eps I)^-1.

    For n - 1 <= D and eps -> 0 every numerator is 2 (n - 1), so that this is 2 (n - 1) / median
    squared distance and knows no directions (see `Proxies.identity_ratio`).
    """
    return sample.median_stiffness(eps)


def effective_rank(sample: Sample, eps: float) -> float:
    """Return tr(Sigma) / lambda_max(Sigma), in [1, min(n - 1, D)]; eps does not enter."""
    return sample.trace / sample.lambda_max


PROXIES: dict[str, Proxy] = {
    "curvature": Proxy(curvature, +1, "1 / activation^2"),
    "monotonicity": Proxy(monotonicity, +1, "1 / activation^2"),
    "effective_rank": Proxy(effective_rank, -1, "1", scale_free=True),
}


@dataclasses.dataclass(frozen=True)
class Proxies:
    """The proxies of one sample, with what is needed to judge them."""

    headline: Mapping[str, float]
    """Value per proxy as the settings ask: by default rows as stored under the absolute ridge."""
    relative: Mapping[str, float]
    """Value per proxy of the rows as stored under the ridge eps_relative * tr(Sigma) / D."""
    rows: int
    trace: float
    lambda_max: float
    median_squared_distance: float
    dropped_pairs: int
    divided_by: float = 1.0
    """What squared activations were divided by in the headline: the trace under scaling=unit_trace."""

    @property
    def curvature(self) -> float:
        """Headline curvature, 1 / activation^2."""
        return self.headline["curvature"]

    @property
    def monotonicity(self) -> float:
        """Headline monotonicity, 1 / activation^2."""
        return self.headline["monotonicity"]

    @property
    def effective_rank(self) -> float:
        """Effective rank, dimensionless."""
        return self.headline["effective_rank"]

    @property
    def identity_ratio(self) -> float:
        """Return monotonicity * median squared distance / (2 (n - 1)).

        1 means that the stiffness is nothing but the inverse squared distance, as it must be for
        n - 1 <= D and eps -> 0; about D / (n - 1) is expected for n > D.
        """
        return self.monotonicity * (self.median_squared_distance / self.divided_by) / (2.0 * (self.rows - 1))

    def unit_trace(self) -> dict[str, float]:
        """Return the proxies of the rows scaled to tr(Sigma) = 1, under the relative ridge.

        By the scale law (x -> c x and eps -> c^2 eps divides curvature and monotonicity by c^2) this
        needs no second measurement.
        """
        return rescaled(self.relative, self.trace)

    def row(self) -> dict[str, float | int]:
        """Return one flat table row with the columns of `row_columns`."""
        values = [
            *self.headline.values(),
            *self.relative.values(),
            self.trace,
            self.lambda_max,
            self.median_squared_distance,
            self.identity_ratio,
            self.dropped_pairs,
            self.rows,
        ]
        return dict(zip(row_columns(), values, strict=True))


def row_columns() -> list[str]:
    """Return the column names of a proxy table, in order."""
    shared = ["trace", "lambda_max", "median_squared_distance", "identity_ratio", "dropped_pairs", "rows"]
    return [*PROXIES, *(f"{name}_relative" for name in PROXIES), *shared]


def rescaled(values: Mapping[str, float], divided_by: float) -> dict[str, float]:
    """Return the proxies of rows whose squares are divided by `divided_by`, from those of the rows themselves."""
    return {name: value * (1.0 if PROXIES[name].scale_free else divided_by) for name, value in values.items()}


def headline_eps(settings: ProxySettings, trace: float, num_columns: int) -> float:
    """Return the ridge of the headline proxies in units of the rows as stored (activation^2)."""
    if settings.ridge == "relative":
        return settings.eps_relative * trace / num_columns
    return settings.eps * (trace if settings.scaling == "unit_trace" else 1.0)


def measure_sample(sample: Sample, settings: ProxySettings, label: str = "x") -> Proxies:
    """Return all proxies of a sample under both ridges; the Gram matrix and neighbours are shared.

    Raises
    ------
    NumericsError
        If a proxy is not finite: the rows span too many orders of magnitude for float64.
    """
    eps_relative = settings.eps_relative * sample.trace / sample.num_columns
    eps = headline_eps(settings, sample.trace, sample.num_columns)
    relative = {name: float(proxy.measure(sample, eps_relative)) for name, proxy in PROXIES.items()}
    headline = relative
    if eps != eps_relative:
        headline = {name: float(proxy.measure(sample, eps)) for name, proxy in PROXIES.items()}
    divided_by = sample.trace if settings.scaling == "unit_trace" else 1.0
    found = Proxies(
        headline=rescaled(headline, divided_by),
        relative=relative,
        rows=sample.num_rows,
        trace=sample.trace,
        lambda_max=sample.lambda_max,
        median_squared_distance=float(np.median(sample.squared_M)),
        dropped_pairs=sample.dropped_pairs,
        divided_by=divided_by,
    )
    for name, value in found.row().items():
        if not np.isfinite(value):
            raise NumericsError(
                f"{label}: {name} is {value}; the activations span too many orders of magnitude for float64: rescale them"
            )
    return found


def measure(
    hidden_states_ND: np.ndarray,
    pairs_M2: np.ndarray,
    settings: ProxySettings | None = None,
    label: str = "x",
) -> Proxies:
    """Measure the proxies of one array.

    One N x N Gram matrix gives neighbours, local spectra, pair distances and, for N <= D, trace,
    leading eigenvalue and stiffness (dual form), so that no D x D work is done there; for N > D a D x D
    covariance and triangular solves are used. All in float64.

    Parameters
    ----------
    hidden_states_ND : ndarray of shape (N, D)
        Hidden states of one layer; rows are token states. N >= k + 2.
    pairs_M2 : ndarray of int, shape (M, 2)
        Row pairs of the monotonicity proxy. The covariance is taken over the same rows.
    settings : ProxySettings, optional
        Every open choice of the paper; `GeometrySettings` is one too. Default: the project's defaults.
    label : str
        Named in errors, e.g. `layer 7`.

    Returns
    -------
    Proxies
        The three proxies (`curvature`, `monotonicity`, `effective_rank`), the same under a relative ridge,
        and what is needed to judge them (trace, identity ratio, dropped pairs).

    Raises
    ------
    ConfigError
        Fewer than k + 2 rows; pairs out of range, joining a row with itself, or more than exist.
    NumericsError
        NaN or inf (the row is named), all rows equal, or all pairs joining identical rows.
    ResourceError
        backend=torch-cuda on a machine without a CUDA device.

    Notes
    -----
    Agreement with an eigendecomposition in float64 is 1e-9 relative or better on well-conditioned
    input; with exact duplicates, low rank or one dimension 10^3 times the others it is 1e-6 or better.
    The torch backends agree with NumPy to 1e-9 relative (1e-6 on the same degenerate input).
    """
    settings = ProxySettings() if settings is None else settings  # pyright: ignore[reportCallIssue]
    if settings.backend != "numpy":
        from dihal_core.geometry.torch_route import TorchPool  # torch is heavy and not always wanted

        return TorchPool(hidden_states_ND, settings, label).measure_all([(None, pairs_M2)])[0]
    return measure_sample(
        GramPool(hidden_states_ND, settings, label=label).sample(pairs_M2, last=True), settings, label
    )
