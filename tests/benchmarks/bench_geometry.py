"""How fast the geometry is: our route, the straightforward one, d x d covariances per point, pool reuse.

One run, routes in turn, medians, ratios; the results of the routes are compared before they are timed.

    python tests/benchmarks/bench_geometry.py [--threads 1 2] [--rounds 1] [--out tests/benchmarks/RESULTS.md]

The straightforward route is NumPy, SciPy and scikit-learn as one would write it: `NearestNeighbors`, a
singular value decomposition of each neighbourhood, `np.cov`, `eigvalsh`, `solve` with the pairs' differences
under both ridges. "d x d per point" replaces its local part by a d x d covariance and `eigvalsh` of each
neighbourhood, timed on a few points and extrapolated; it is how the definition reads.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.linalg

from dihal_core.config import GeometrySettings
from dihal_core.geometry.blas import blas_threads, syrk_columns
from dihal_core.geometry.draws import distinct_pairs
from dihal_core.geometry.pool import GramPool
from dihal_core.geometry.proxies import measure, measure_sample

ROWS, SMALL, POOL, PAIRS = 3000, 500, 8000, 5000
SETTINGS = GeometrySettings()
MARKS = ("<!-- geometry: begin -->", "<!-- geometry: end -->")


def hidden_states(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Rows with the decaying spectrum, the common offset and the clusters of a middle layer; float32."""
    rng = np.random.default_rng(seed)
    scale_D = 10.0 * np.arange(1, d + 1) ** -0.6 + 0.3
    x_ND = rng.standard_normal((n, d), dtype=np.float32) * scale_D.astype(np.float32)
    x_ND += (2.0 * rng.standard_normal((n // 4, d)) * scale_D).astype(np.float32)[rng.integers(0, n // 4, n)]
    return x_ND + 5.0 * rng.standard_normal(d).astype(np.float32)


def local_curvature(x_ND: np.ndarray) -> dict[str, float]:
    """Curvature by scikit-learn's neighbours and one singular value decomposition per point."""
    from sklearn.neighbors import NearestNeighbors  # only the comparison needs it

    search = NearestNeighbors(n_neighbors=SETTINGS.k + 1, algorithm="brute").fit(x_ND)
    near_NK = search.kneighbors(x_ND, return_distance=False)
    local_N = np.empty(len(x_ND))
    for row, members in enumerate(near_NK):
        block = x_ND[members]
        local_N[row] = scipy.linalg.svdvals(block - block.mean(axis=0), check_finite=False)[0] ** 2 / SETTINGS.k
    return {"curvature": float(np.median(1.0 / (local_N + SETTINGS.eps)))}


def from_covariance(x_ND: np.ndarray, pairs_M2: np.ndarray) -> dict[str, float]:
    """What needs the covariance of all rows: effective rank, stiffness under both ridges."""
    sigma_DD = np.cov(x_ND, rowvar=False)
    values_D = np.linalg.eigvalsh(sigma_DD)
    difference_MD = x_ND[pairs_M2[:, 0]] - x_ND[pairs_M2[:, 1]]
    squared_M = (difference_MD**2).sum(axis=1)
    trace, d = float(np.trace(sigma_DD)), x_ND.shape[1]
    found = {"effective_rank": trace / float(values_D[-1])}
    for name, eps in (("monotonicity", SETTINGS.eps), ("monotonicity_relative", SETTINGS.eps_relative * trace / d)):
        solved_DM = np.linalg.solve(sigma_DD + eps * np.eye(d), difference_MD.T)
        found[name] = float(np.median((difference_MD * solved_DM.T).sum(axis=1) / squared_M))
    return found


def covariance_per_point(x_ND: np.ndarray, points: int) -> None:
    """The d x d covariance of a neighbourhood and its largest eigenvalue, for a few points."""
    for row in range(points):
        np.linalg.eigvalsh(np.cov(x_ND[row : row + SETTINGS.k + 1].astype(np.float64), rowvar=False))


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    return both_clocks(work)[0]


def both_clocks(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of one call; other programs on the machine lengthen the first much more."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(d: int, rounds: int, points: int) -> dict[str, float]:
    """Time all routes at one width, in turn; keys ending in `_cpu` are CPU seconds."""
    x_ND = hidden_states(POOL, d)
    rng = np.random.default_rng(2)
    pairs_M2 = distinct_pairs(ROWS, PAIRS, rng)
    part_ND, part64_ND = x_ND[:ROWS], x_ND[:ROWS].astype(np.float64)
    ours = measure(part_ND, pairs_M2, SETTINGS)
    rows = [np.sort(rng.choice(POOL, ROWS, replace=False)) for _ in range(2)]
    small = [(part[:SMALL], distinct_pairs(SMALL, PAIRS, rng)) for part in rows]
    pools: list[GramPool] = []
    pool_once = seconds(lambda: pools.append(GramPool(x_ND, SETTINGS, ROWS)))
    pool = pools[0]
    took: dict[str, list[tuple[float, float]]] = {}
    plain: dict[str, float] = {}

    def clock(name: str, work: Callable[[], object], times: int = 1) -> None:
        took.setdefault(name, []).extend(both_clocks(work) for _ in range(times))

    for _ in range(rounds):
        for part in rows:
            clock("ours", lambda: measure(part_ND, pairs_M2, SETTINGS))
            clock("pool", lambda part=part: measure_sample(pool.sample(pairs_M2, part), SETTINGS))
        for part, pairs in small:
            clock("small", lambda part=part, pairs=pairs: measure(x_ND[part], pairs, SETTINGS), 3)
            clock("small_pool", lambda p=part, pairs=pairs: measure_sample(pool.sample(pairs, p), SETTINGS), 3)
        clock("local", lambda: plain.update(local_curvature(part64_ND)))
        clock("global", lambda: plain.update(from_covariance(part64_ND, pairs_M2)))
        clock("point", lambda: covariance_per_point(part_ND, points))
    found: dict[str, float] = {"d": d, "pool_once": pool_once}
    for suffix, which in (("", 0), ("_cpu", 1)):
        middle = {name: statistics.median(pair[which] for pair in pairs) for name, pairs in took.items()}
        found |= {f"{name}{suffix}": value for name, value in middle.items()}
        found[f"straightforward{suffix}"] = middle["local"] + middle["global"]
        found[f"per_point{suffix}"] = middle["global"] + ROWS * middle["point"] / points
    found["difference"] = max(abs(ours.row()[name] / value - 1.0) for name, value in plain.items())
    return found


def products(d: int, repeats: int = 5) -> tuple[float, float]:
    """Median wall rate of our product at one width and of a GEMM, GFLOP/s, in turn.

    Each is called a few times before it counts: after a change of routine OpenBLAS's threads may share a core for
    a while (seen here: four calls at half the rate), and the gather of a subsample has touched its rows anyway.
    """
    x_ND = hidden_states(ROWS, d).astype(np.float64)
    square = np.random.default_rng(1).standard_normal((2, 2000, 2000))
    work = (lambda: syrk_columns(x_ND)) if d < ROWS else (lambda: x_ND @ x_ND.T)
    flops = ROWS * d * min(d, ROWS)
    ours, peak = [], []
    for _ in range(repeats):
        for rates, operation, count in ((peak, lambda: square[0] @ square[1], 2 * 2000**3), (ours, work, flops)):
            for _ in range(6 if count < 1e10 else 1):
                operation()
            rates.extend(count / seconds(operation) for _ in range(2))
    return statistics.median(ours) / 1e9, statistics.median(peak) / 1e9


def _ratio(found: dict[str, float], slow: str, fast: str) -> str:
    return f"**{found[slow] / found[fast]:,.3g}x** ({found[f'{slow}_cpu'] / found[f'{fast}_cpu']:,.3g}x)"


def table(results: list[dict[str, float]], rates: dict[int, tuple[float, float]], threads: int) -> str:
    """Markdown tables for one number of BLAS threads."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    lines = [
        f"### {threads} BLAS thread{'s' if threads > 1 else ''} (load averages at the end {load})",
        "",
        "| d | ours, alone | straightforward | ratio | d x d per point | ratio | subsample of a pool | alone / pool |"
        " pool, once | largest difference |",
        "|--|--|--|--|--|--|--|--|--|--|",
    ]
    for found in results:
        lines.append(
            f"| {found['d']:.0f} | {found['ours']:.3f} s | {found['straightforward']:.2f} s | "
            f"{_ratio(found, 'straightforward', 'ours')} | {found['per_point']:,.0f} s | "
            f"{_ratio(found, 'per_point', 'ours')} | {found['pool']:.3f} s | {_ratio(found, 'ours', 'pool')} | "
            f"{found['pool_once']:.1f} s | {found['difference']:.0e} |"
        )
    lines += ["", f"| d | {SMALL} rows, alone | subsample of the pool | ratio |", "|--|--|--|--|"]
    for found in results:
        lines.append(
            f"| {found['d']:.0f} | {1e3 * found['small']:.0f} ms | {1e3 * found['small_pool']:.0f} ms | "
            f"{_ratio(found, 'small', 'small_pool')} |"
        )
    lines += ["", "| product | GFLOP/s | share of the GEMM rate measured in turn |", "|--|--|--|"]
    for d, (rate, peak) in rates.items():
        name = "covariance, x^T x" if d < ROWS else "Gram matrix, x x^T"
        lines.append(f"| {name}, {ROWS} x {d} (one triangle) | {rate:.0f} of {peak:.0f} | **{rate / peak:.0%}** |")
    return "\n".join(lines)


def write(path: Path, section: str) -> None:
    """Replace the geometry section of the results file, or add it."""
    text = path.read_text(encoding="utf-8") if path.exists() else "# Measured speed\n"
    block = f"{MARKS[0]}\n## Geometry: `python tests/benchmarks/bench_geometry.py`\n\n{section}\n{MARKS[1]}"
    if MARKS[0] in text:
        text = text[: text.index(MARKS[0])] + block + text[text.index(MARKS[1]) + len(MARKS[1]) :]
    else:
        text = f"{text.rstrip()}\n\n{block}\n"
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Run, print, and write the section if asked; a width that is done is written at once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=1, help="turns at d = 4096; three times as many at d = 576")
    parser.add_argument("--widths", type=int, nargs="+", default=[576, 4096], choices=(576, 4096))
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    parts = [
        f"float64, NumPy {np.__version__}, {platform.machine()}, {os.cpu_count()} cores; n = {ROWS}, {PAIRS:,} pairs, "
        f"k = {SETTINGS.k}, both ridges; pool of {POOL:,} rows. Medians of wall seconds of turns taken one after "
        "another in one run; ratios of CPU seconds in brackets. d x d per point: a few points timed, times the rows."
    ]
    for threads in arguments.threads:
        results: list[dict[str, float]] = []
        with blas_threads(threads):
            rates = {d: products(d) for d in arguments.widths}
            for d, rounds, points in ((576, 3 * arguments.rounds, 20), (4096, arguments.rounds, 1)):
                if d not in arguments.widths:
                    continue
                results.append(compare(d, rounds, points))
                if arguments.out:
                    write(arguments.out, "\n\n".join([*parts, table(results, rates, threads)]))
        parts.append(table(results, rates, threads))
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
