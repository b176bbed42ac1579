"""Settings of the proxies, their protocol, further metrics, the score and its agreement with losses."""

from typing import Literal

from pydantic import Field, model_validator

from dihal_core.config.base import Settings


class ProxySettings(Settings):
    """How the rows of one layer become the three proxies: every choice the paper's text leaves open."""

    k: int = Field(10, ge=1, le=200, description="Neighbours of each point (ours).")
    eps: float = Field(
        1e-6, gt=0, description="Absolute ridge of curvature and stiffness; the paper's plain reading (value ours)."
    )
    eps_relative: float = Field(1e-2, gt=0, description="Ridge relative to tr/d, shown beside the headline (ours).")
    ridge: Literal["absolute", "relative"] = Field(
        "absolute", description="Which of the two ridges the headline proxies use (ours)."
    )
    curvature_form: Literal["inverse_top", "inverse_trace", "k_over_trace"] = Field(
        "inverse_top",
        description="Local curvature of a neighbourhood with covariance C: 1 / (lambda_max(C) + eps), 1 / (tr C + eps) "
        "or 1 / (tr C / k + eps) (ours: the formula is lost in our copy of the paper).",
    )
    metric: Literal["euclidean", "cosine"] = Field(
        "euclidean",
        description="Which rows are neighbours; cosine compares rows as stored, not centred. Covariances are of the "
        "rows themselves either way (ours).",
    )
    include_self: bool = Field(True, description="The point belongs to its own neighbourhood of k + 1 rows (ours).")
    scaling: Literal["raw", "unit_trace", "token_rms"] = Field(
        "raw",
        description="raw: rows as stored; unit_trace: each subsample divided by the root of its total variance; "
        "token_rms: each row divided by its root mean square (ours).",
    )
    backend: Literal["numpy", "torch-cpu", "torch-cuda"] = Field(
        "numpy", description="Library and device of the arithmetic, float64 everywhere; part of the key (ours)."
    )

    @model_validator(mode="after")
    def _neighbourhood_has_spread(self) -> "ProxySettings":
        if not self.include_self and self.k < 2:
            raise ValueError(
                f"k = {self.k} without the point itself leaves one row, which has no covariance; raise k or set "
                "include_self=true"
            )
        return self


class GeometrySettings(ProxySettings):
    """The three proxies and the paper's bootstrap protocol (section 2)."""

    num_pairs: int = Field(5000, ge=1, description="Sampled pairs of the monotonicity proxy (ours).")
    large_count: int = Field(100, ge=1, description="Paper: 100 subsamples.")
    large_size: int = Field(3000, ge=8, description="Paper: 3K examples each.")
    small_count: int = Field(30, ge=0, description="Paper: 30 additional subsamples (fresh draws).")
    small_size: int = Field(500, ge=8, description="Paper: 500 examples each.")
    bootstrap_replicates: int = Field(200, ge=0, description="Document resamples behind intervals (ours).")
    outlier_ratio: float = Field(
        4.0, gt=1, description="Rows with norm above this times the median are counted (ours)."
    )
    threads: int = Field(1, ge=1, le=256, description="BLAS threads per layer task; part of the key.")
    max_pool_rows: int = Field(
        10_000, ge=8, description="Pools up to this size share one float64 Gram matrix (8 N^2 bytes a layer) (ours)."
    )

    @model_validator(mode="after")
    def _subsamples_suffice(self) -> "GeometrySettings":
        sizes = [("large_size", self.large_size)] + ([("small_size", self.small_size)] if self.small_count else [])
        for name, size in sizes:
            if size < self.k + 2:
                raise ValueError(
                    f"{name} {size} is too small for k = {self.k}; at least k + 2 = {self.k + 2} rows are needed"
                )
            if self.num_pairs > size * (size - 1) // 2:
                raise ValueError(
                    f"num_pairs {self.num_pairs} exceeds the {size * (size - 1) // 2} pairs of {name} {size}; lower it"
                )
        return self


class MetricSettings(Settings):
    """Further metrics of every layer, on one sample of rows and windows that all layers share (ours)."""

    rows: int = Field(2000, ge=16, description="Token states of the pool that the metrics are measured on (ours).")
    lens_rows: int = Field(
        400, ge=1, description="Rows, at most, that are read out through the LM head: vocabularies are large (ours)."
    )
    sequences: int = Field(32, ge=1, description="Whole windows behind prompt entropy and prompt curvature (ours).")


class ScoreSettings(Settings):
    """S(l) = z(curvature) + z(monotonicity) - z(effective rank) over candidate layers (paper section 2)."""

    first_layer: int = Field(1, ge=1, description="First candidate (ours: 1; layer 0 is the bridge's own condition).")
    last_layer: int | None = Field(
        None, ge=1, description="Last candidate; null means L-1 (ours: block L is never one)."
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="Level of intervals (ours).")
    aggregate: Literal["mean_of_scores", "score_of_means"] = Field(
        "mean_of_scores",
        description="z-scores inside each subsample and the mean of the scores, or z-scores of the proxies' means (ours).",
    )
    transform: Literal["linear", "log"] = Field(
        "linear", description="Proxies, or their logarithms, enter the z-scores (ours)."
    )


class AgreementSettings(Settings):
    """Does the score predict the bridge loss?"""

    bootstrap_replicates: int = Field(1000, ge=0, description="Resamples behind intervals of correlations (ours).")
    permutations: int = Field(2000, ge=0, description="Permutations behind p-values (ours).")
    confidence: float = Field(0.95, gt=0, lt=1, description="Level of intervals (ours).")
