"""Tables of Locate: layers, rivals of the score, variants, stability. Raw values in, `Table` out."""

from collections.abc import Iterable, Mapping
from typing import Any

from dihal_core.reporting.results import Json
from dihal_core.reporting.tables import Column, Table

PREDICTORS = {
    "raw": "geometry score S (paper)",
    "eps_relative": "S with relative ridge",
    "unit_trace": "S, each layer scaled to unit trace",
    "unit_trace_without_outliers": "S, unit trace, outlier rows dropped",
    "curvature": "curvature alone",
    "monotonicity": "monotonicity alone",
    "minus_effective_rank": "minus effective rank alone",
    "depth": "depth alone (shallower is better)",
    "minus_log_norm": "norm alone (smaller is better)",
    "ridge_r2": "ridge map R\u00b2 from the embedding",
}


def ordered(found: Mapping[str, Any] | None, known: Iterable[str]) -> list[str]:
    """Return the keys of `found`, known ones first in reading order (JSON on disk is sorted by name)."""
    found, known = found or {}, list(known)
    return [name for name in known if name in found] + sorted(name for name in found if name not in known)


def layer_table(score: Json) -> Table:
    """Return one row per layer with all that geometry says about it; layers 0 and L are controls."""
    columns = (
        Column("layer", "layer", "layer"),
        Column("role", "role", "text", "controls are shown, never z-scored, never selected"),
        Column("rank", "rank", "count", "1 = highest score"),
        Column(
            "score", "score S", "interval", decimals=2, help="z(curvature) + z(monotonicity) \u2212 z(effective rank)"
        ),
        Column("bias", "bias of S", help="mean of S over resampled documents minus S", decimals=3),
        Column(
            "selection_probability", "P(selected)", "share", "share of document resamples in which S is largest here"
        ),
        Column("curvature", "curvature", "interval", "median 1/(largest local eigenvalue + eps)"),
        Column("monotonicity", "monotonicity", "interval", "median stiffness of sampled pairs"),
        Column("effective_rank", "effective rank", "interval", "trace / largest eigenvalue", decimals=2),
        Column("log_mean_norm", "log mean norm", decimals=2),
        Column("trace", "trace"),
        Column(
            "effective_rows", "independent rows", "count", "worth of the rows, by their correlation within documents"
        ),
        Column("outlier_rows", "outlier rows", "count", "rows with norm above a multiple of the median"),
        Column("outlier_trace_share", "their trace share", "share"),
        Column("duplicate_rows", "duplicate rows", "count"),
        Column("top_dimension", "top dimension", "layer"),
        Column("top_dimension_share", "its trace share", "share"),
        Column("max_norm_ratio", "max norm / median"),
        Column("position_0_norm_ratio", "norm at position 0 / median", help="on whole windows; the pool skips it"),
        Column("massive_tokens", "massive tokens", "count", "of whole windows: norm above 10 times the median"),
        Column("massive_at_position_0", "of these at position 0", "count"),
        Column("identity_ratio", "identity ratio", help="1 = stiffness holds no directional information", decimals=3),
    )
    selected = score["selected_layer"]
    rows, marks = [], []
    for row in sorted(score["layers"], key=lambda item: item["layer"]):
        bias = (row["score"] or {}).get("bias")
        rows.append({**row, "role": "candidate" if row["candidate"] else "control", "bias": bias})
        marks.append("selected" if row["layer"] == selected else "" if row["candidate"] else "control")
    return Table("layers", "Geometry of every layer", columns, tuple(rows), tuple(marks))


def metric_table(metrics: Json) -> Table:
    """Return the further metrics of every layer, one column each."""
    names = list(dict.fromkeys(name for row in metrics["layers"] for name in row if name != "layer"))
    sources = metrics.get("sources") or {}
    columns = (
        Column("layer", "layer", "layer"),
        *(Column(name, name.replace("_", " "), help=str(sources.get(name, ""))) for name in names),
    )
    return Table("metrics", "Further metrics of every layer", columns, tuple(metrics["layers"]))


def comparator_table(score: Json, ridge: Mapping[int, float | None] | None = None, tokens: str = "one token") -> Table:
    """Return the score of every candidate layer beside all its rivals, larger is sooner selected.

    `ridge`: R squared of a ridge map from the embedding output by layer, of `tokens`.
    """
    variants = score.get("variants") or {}
    names = [name for name in ordered(variants, PREDICTORS) if (variants[name] or {}).get("scores")]
    ridge = ridge or {}
    columns = (
        Column("layer", "layer", "layer"),
        *(Column(name, label_of(name), decimals=2) for name in names),
        *((Column("ridge_r2", f"R\u00b2 of a ridge from the embedding ({tokens})", decimals=3),) if ridge else ()),
        Column("identity_ratio", "identity ratio", help="1 = stiffness holds no directional information", decimals=3),
    )
    rows, marks = [], []
    for row in sorted((row for row in score["layers"] if row["candidate"]), key=lambda item: item["layer"]):
        layer = row["layer"]
        values = {name: variants[name]["scores"].get(str(layer)) for name in names}
        rows.append({"layer": layer, **values, "ridge_r2": ridge.get(layer), "identity_ratio": row["identity_ratio"]})
        marks.append("selected" if layer == score["selected_layer"] else "")
    return Table("comparators", "The score beside its rivals, per layer", columns, tuple(rows), tuple(marks))


def variant_table(score: Json) -> Table:
    """Return which layer each variant of the score would select."""
    columns = (Column("variant", "variant", "text"), Column("selected", "selects layer", "layer"))
    variants = score.get("variants") or {}
    rows = [{"variant": label_of(name), **variants[name]} for name in ordered(variants, PREDICTORS)]
    return Table("variants", "Which layer each variant selects", columns, tuple(rows))


def stability_table(score: Json) -> Table:
    """Return rank agreement between subsamples (spread of overlapping draws: stability, not an interval)."""
    names = {
        "large_pairs": "large subsamples against each other",
        "small_pairs": "small subsamples against each other",
        "large": "large subsamples against their mean",
        "small": "small subsamples against the large mean",
        "large_vs_small": "mean of large against mean of small",
    }
    columns = (
        Column("comparison", "comparison", "text"),
        Column("spearman", "Spearman", "interval", decimals=3),
        Column("kendall", "Kendall", "interval", decimals=3),
    )
    blocks = score.get("stability") or {}
    rows = [{"comparison": names.get(name, name), **(blocks[name] or {})} for name in ordered(blocks, names)]
    return Table("stability", "Stability of the ranking", columns, tuple(rows))


def label_of(name: str) -> str:
    return PREDICTORS.get(name, name)
