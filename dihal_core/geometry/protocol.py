"""Stage geometry: the paper's subsample protocol for one layer.

Every large and small subsample gives one table row. All subsamples of a pool share its Gram matrix and
neighbour lists where the pool fits (`geometry.max_pool_rows`); else each subsample has a Gram of its own.
Each finished subsample is committed, so a kill loses the one in work (with `compute.subsample_workers`, those
in work). Only whole groups are flushed to disk, because a flush costs about as much as a measurement. The
torch backends measure a group at once.

Letters: N pool rows, n subsample rows, D columns, B replicates, M pairs.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from dihal_core.activations.reader import Pool, load_pool
from dihal_core.activations.sinks import sinks_of
from dihal_core.geometry.blas import blas_threads
from dihal_core.geometry.design_effect import effective_rows
from dihal_core.geometry.diagnostics import effective_number, outlier_mask, row_diagnostics
from dihal_core.geometry.draws import Draw, distinct_pairs, draw_pairs, draw_rows, groups_of, protocol_draws
from dihal_core.geometry.pool import GramPool
from dihal_core.geometry.proxies import PROXIES, Proxies, headline_eps, measure_sample
from dihal_core.geometry.resampling import document_fluctuations, draw_halves
from dihal_core.geometry.rows import identical_rows, require_finite
from dihal_core.geometry.table import FILE, encode_array, encode_table
from dihal_core.seeding import stream

GROUP_SIZE = 10
TORCH_GROUP_SIZE = 50
WITHOUT_OUTLIERS = 10
"""Large subsamples measured a second time without outlier rows."""
RESAMPLING_PAIRS = 20_000

Row = dict[str, Any]
Request = tuple[str, np.ndarray, np.ndarray]
"""Name of a subsample, its pool rows, its pairs."""


class LayerPool:
    """The rows of one layer; the shared Gram matrix is made when first asked for."""

    def __init__(self, rows_ND: np.ndarray, settings: Any, label: str, workers: int = 1):
        self.rows_ND, self.settings, self.label, self.workers = rows_ND, settings, label, workers
        self.fits = len(rows_ND) <= settings.max_pool_rows
        self._pool: GramPool | None = None
        self._torch_pool: Any = None

    @property
    def pool(self) -> GramPool:
        """Gram matrix and neighbour lists of all rows."""
        if self._pool is None:
            self._pool = GramPool(self.rows_ND, self.settings, self.settings.large_size, self.label)
        return self._pool

    def prepare(self) -> bool:
        """Make the shared Gram matrix now, if there is to be one and it was not made yet; say whether it was."""
        if self._pool is not None or not self.fits or self.settings.backend != "numpy":
            return False
        return self.pool is not None

    def measure(self, requests: list[Request]) -> Iterator[Proxies]:
        """Measure subsamples, in the order asked: pool rows, and pairs that are positions within them."""
        if requests and self.settings.backend != "numpy":
            yield from self._by_torch(requests)
        elif self.workers == 1 or len(requests) < 2:
            yield from map(self._measure_one, requests)
        else:
            self.prepare()
            executor = ThreadPoolExecutor(self.workers, thread_name_prefix="subsample")
            try:
                yield from executor.map(self._measure_one, requests)
            finally:
                executor.shutdown(cancel_futures=True)

    def _measure_one(self, request: Request) -> Proxies:
        name, rows_n, pairs_M2 = request
        label = f"{self.label}, {name}"
        if self.fits:
            sample = self.pool.sample(pairs_M2, rows_n)
        else:
            sample = GramPool(self.rows_ND[rows_n], self.settings, label=label).sample(pairs_M2, last=True)
        return measure_sample(sample, self.settings, label)

    def _by_torch(self, requests: list[Request]) -> list[Proxies]:
        from dihal_core.geometry.torch_route import TorchPool, torch_threads  # torch is heavy

        with torch_threads(self.settings.threads):
            if self._torch_pool is None:
                self._torch_pool = TorchPool(self.rows_ND, self.settings, self.label, share_gram=self.fits)
            return self._torch_pool.measure_all([(rows_n, pairs_M2) for _, rows_n, pairs_M2 in requests])


def build_geometry(context: Any) -> dict[str, Any]:
    """Build one layer of the geometry stage (unit: layer).

    Writes `proxies.csv` (a row per subsample), `bootstrap.npy` (B, 3: curvature, monotonicity, effective
    rank under resampled documents) and `diagnostics.json`.

    Raises
    ------
    ConfigError
        If the pool is too small for the protocol.
    NumericsError
        NaN or inf (layer and row are named), or a layer without variance.
    """
    with blas_threads(context.settings.geometry.threads):
        return _build(context)


def _build(context: Any) -> dict[str, Any]:
    settings, seed, layer = context.settings.geometry, context.settings.seed, int(context.unit)
    label = f"layer {layer}"
    draws = protocol_draws(settings)
    context.progress(0, len(draws), "subsamples")
    activations: Pool = load_pool(context.inputs["activations"], layer)
    context.progress(0, len(draws), "subsamples")
    require_finite(activations.rows_ND, label)
    _, document_N = np.unique(activations.document_N, return_inverse=True)
    layer_pool = LayerPool(activations.rows_ND, settings, label, context.settings.compute.subsample_workers)

    rows = _measure_all(context, layer_pool, draws)
    large = [row for row in rows if row["group"] == "large"]
    clean = _committed_or(context, "without-outliers", lambda: _without_outliers(layer_pool, seed, draws, large))
    fluctuation_B3 = np.array(
        _committed_or(context, "resampling", lambda: _resample(context, layer_pool, document_N, draws)),
        dtype=np.float64,
    ).reshape(-1, 3)

    mean_3 = np.array([np.mean([row[name] for row in large]) for name in PROXIES])
    replicate_B3 = mean_3 * fluctuation_B3
    replicate_B3[:, 2] = np.maximum(replicate_B3[:, 2], 1.0)  # no effective rank is below 1
    context.store.write_bytes("bootstrap.npy", encode_array(replicate_B3))
    context.store.write_bytes(FILE, encode_table(rows))
    rows_C = np.bincount(document_N)
    twin_N = identical_rows(activations.rows_ND)
    independent = effective_rows(activations.rows_ND, document_N)
    diagnostics = {
        "layer": layer,
        "rows": len(document_N),
        "dimensions": int(activations.rows_ND.shape[1]),
        "documents": len(rows_C),
        "effective_documents": effective_number(rows_C),
        "intra_document_correlation": independent.correlation,
        "effective_rows": independent.rows,
        **row_diagnostics(activations.rows_ND, twin_N, settings.outlier_ratio),
        **sinks_of(context.inputs["activations"], layer),
        "identity_ratio": float(np.mean([row["identity_ratio"] for row in large])),
        "without_outliers": clean,
        "replicates": len(fluctuation_B3),
        "shared_gram": layer_pool.fits,
    }
    context.store.write_json("diagnostics.json", diagnostics)
    return {"subsamples": len(rows), "rows": len(document_N), "documents": len(rows_C)}


def _measure_all(context: Any, layer_pool: LayerPool, draws: list[Draw]) -> list[Row]:
    settings, seed = context.settings.geometry, context.settings.seed
    committed = context.store.committed()
    rows: list[Row] = []
    for unit, group in groups_of(draws, GROUP_SIZE if settings.backend == "numpy" else TORCH_GROUP_SIZE):
        measured: list[Row] = committed.get(unit, {"rows": []})["rows"]
        missing = group[len(measured) :]
        if missing and layer_pool.prepare():
            context.progress(len(rows) + len(measured), len(draws), "subsamples")
        requests = [
            (
                _name(draw),
                draw_rows(seed, draw, len(layer_pool.rows_ND)),
                draw_pairs(seed, draw, settings.num_pairs),
            )
            for draw in missing
        ]
        for draw, proxies in zip(missing, layer_pool.measure(requests), strict=True):
            measured.append({"group": draw.group, "index": draw.index, **proxies.row()})
            context.store.commit(unit, {"rows": measured}, durable=len(measured) == len(group))
            context.progress(len(rows) + len(measured), len(draws), "subsamples")
        rows += measured
    return rows


def _name(draw: Draw) -> str:
    return f"{draw.group} subsample {draw.index}"


def _committed_or(context: Any, unit: str, compute: Callable[[], Any]) -> Any:
    committed = context.store.committed()
    if unit not in committed:
        context.store.commit(unit, {"value": compute()})
        committed = context.store.committed()
    return committed[unit]["value"]


def _without_outliers(layer_pool: LayerPool, seed: int, draws: list[Draw], large: list[Row]) -> list[Row]:
    """Measure the first large subsamples again without outlier rows; empty where too few rows or pairs stay."""
    settings = layer_pool.settings
    outlier_N = outlier_mask(layer_pool.rows_ND, settings.outlier_ratio)
    found = large[:WITHOUT_OUTLIERS]
    positions, requests = [], []
    for position, draw in enumerate([d for d in draws if d.group == "large"][:WITHOUT_OUTLIERS]):
        rows_n = draw_rows(seed, draw, len(outlier_N))
        keep_n = ~outlier_N[rows_n]
        if keep_n.all():
            continue
        pairs_M2 = draw_pairs(seed, draw, settings.num_pairs)
        pairs_M2 = (np.cumsum(keep_n) - 1)[pairs_M2[keep_n[pairs_M2].all(axis=1)]]
        if keep_n.sum() < settings.k + 2 or len(pairs_M2) == 0:
            return []
        positions.append(position)
        requests.append((f"{_name(draw)} without outliers", rows_n[keep_n], pairs_M2))
    for position, proxies in zip(positions, layer_pool.measure(requests), strict=True):
        found[position] = {"group": "large", "index": large[position]["index"], **proxies.row()}
    return found


def _resample(context: Any, layer_pool: LayerPool, document_N: np.ndarray, draws: list[Draw]) -> list[list[float]]:
    """Relative fluctuations of the proxies over documents; the same halves and pairs for every layer.

    Where the pool is too large for one Gram matrix, the rows of the first large subsamples stand for it
    and the fluctuations are scaled by the square root of (their documents / documents of the protocol).
    """
    settings, seed = layer_pool.settings, context.settings.seed
    pool, base_N, scale = layer_pool, np.arange(len(document_N)), 1.0
    if not layer_pool.fits:
        base_N, covered = _base_rows(seed, draws, len(document_N), settings.max_pool_rows)
        scale = float(np.sqrt(len(np.unique(document_N[base_N])) / len(np.unique(document_N[covered]))))
        pool = LayerPool(layer_pool.rows_ND[base_N], settings, layer_pool.label)
    _, base_document_N = np.unique(document_N[base_N], return_inverse=True)
    halves_BC = draw_halves(
        np.bincount(base_document_N),
        settings.k + 2,
        settings.bootstrap_replicates,
        stream(seed, "geometry", "documents"),
    )
    possible = len(base_N) * (len(base_N) - 1) // 2
    pairs_M2 = distinct_pairs(len(base_N), min(RESAMPLING_PAIRS, possible), stream(seed, "geometry", "document pairs"))
    total = len(draws)
    fluctuation_B3 = document_fluctuations(
        pool.pool, base_document_N, pairs_M2, halves_BC,
        headline_eps(settings, pool.pool.trace, pool.pool.centred_ND.shape[1]),
        lambda done, of: context.progress(total - 1 + done / of, total, "subsamples"),
    )  # fmt: skip
    return (fluctuation_B3**scale).tolist()


def _base_rows(seed: int, draws: list[Draw], pool_rows: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
    base: np.ndarray = np.zeros(0, dtype=np.int64)
    seen_N = np.zeros(pool_rows, dtype=bool)
    for draw in draws:
        if draw.group == "large":
            rows_n = draw_rows(seed, draw, pool_rows)
            base = np.concatenate([base, rows_n[~seen_N[rows_n]]])
            seen_N[rows_n] = True
    return np.sort(base[:limit]), np.flatnonzero(seen_N)
