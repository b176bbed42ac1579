"""Bootstrap intervals of ratios of sums, resampling whole documents.

Tokens of one document are not independent, so documents are the unit (cluster bootstrap,
percentile intervals). All quantities of one evaluation use the same resamples, which makes
differences paired. Ours: the paper reports no intervals.

Letters: G documents, R replicates.
"""

import math
from collections.abc import Callable

import numpy as np

from dihal_core.errors import ConfigError

Interval = dict[str, float | None]
"""`{"value", "low", "high"}`; low and high are None where documents are too few to resample."""

BLOCK_ENTRIES = 4_000_000


class DocumentBootstrap:
    """Resamples of `documents` documents, drawn once.

    Parameters
    ----------
    documents
        G, number of documents.
    replicates
        R; 0 gives values without intervals.
    confidence
        Level of the percentile interval, between 0 and 1.
    generator
        From `dihal_core.seeding.stream`.
    """

    def __init__(self, documents: int, replicates: int, confidence: float, generator: np.random.Generator):
        if documents < 1:
            raise ConfigError(f"a bootstrap over {documents} documents has nothing to resample; evaluate at least one")
        self.documents, self.confidence = documents, confidence
        rows = replicates if documents > 1 else 0
        block = max(1, BLOCK_ENTRIES // documents)
        share_G = np.full(documents, 1.0 / documents)
        self._counts = [
            generator.multinomial(documents, share_G, size=min(block, rows - start)).astype(np.uint16)
            for start in range(0, rows, block)
        ]

    def sums(self, value_G: np.ndarray) -> np.ndarray:
        """Return the R resampled sums of a per-document quantity."""
        value_G = np.asarray(value_G, dtype=np.float64)
        if value_G.shape != (self.documents,):
            raise ConfigError(f"got {value_G.shape} values for {self.documents} documents; give one per document")
        if not self._counts:
            return np.empty(0)
        return np.concatenate([counts_RG @ value_G for counts_RG in self._counts])

    def ratio(
        self,
        numerator_G: np.ndarray,
        denominator_G: np.ndarray,
        transform: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Interval:
        """Return the interval of `transform(sum numerator / sum denominator)`; `transform` must be increasing."""
        with np.errstate(divide="ignore", invalid="ignore"):  # a resample without a word has no word perplexity
            value = np.sum(numerator_G, dtype=np.float64) / np.sum(denominator_G, dtype=np.float64)
            bounds = [value, *self._bounds(self.sums(numerator_G) / self.sums(denominator_G))]
        found = [_finite(bound if transform is None else transform(np.asarray(bound))) for bound in bounds]
        return dict(zip(("value", "low", "high"), found, strict=True))

    def difference(self, first_G: np.ndarray, second_G: np.ndarray, denominator_G: np.ndarray) -> Interval:
        """Return the interval of `sum(first - second) / sum denominator`: paired, on the same resamples."""
        return self.ratio(np.asarray(first_G, np.float64) - np.asarray(second_G, np.float64), denominator_G)

    def _bounds(self, replicate_R: np.ndarray) -> np.ndarray:
        if not len(replicate_R):
            return np.full(2, np.nan)
        tail = (1.0 - self.confidence) / 2.0
        return np.quantile(replicate_R, [tail, 1.0 - tail])


def sum_by_document(value_BT: np.ndarray, document_B: np.ndarray, documents: int) -> np.ndarray:
    """Return float64 sums over all windows and positions of each document index 0..documents-1."""
    per_window_B = np.asarray(value_BT, np.float64).reshape(len(document_B), -1).sum(axis=1)
    return np.bincount(document_B, weights=per_window_B, minlength=documents)


def perplexity(nll: np.ndarray) -> np.ndarray:
    """Return exp(nll); inf beyond float64, which intervals report as null."""
    with np.errstate(over="ignore"):
        return np.exp(nll)


def bits(nats: np.ndarray) -> np.ndarray:
    """Return nats / ln 2."""
    return nats / math.log(2.0)


def _finite(value: float | np.ndarray) -> float | None:
    return float(value) if math.isfinite(value) else None
