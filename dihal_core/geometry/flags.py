"""What the numbers of a score should make a reader wary of, in sentences."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dihal_core.geometry.ranks import spearman

OUTLIER_SHARE = 0.05
DIMENSION_SHARE = 0.2
DUPLICATE_SHARE = 0.05
NORM_RATIO = 10.0
NORM_CORRELATION = 0.7
SURE = 0.9
SAME_ORDER = 0.99
FEW_DOCUMENTS = 100
BIAS_SHARE = 0.5
"""Biases of S above this share of its standard error are told."""


def layer_ranges(layers: Iterable[int]) -> str:
    """Return `layer 3` or `layers 1 to 3, 7`."""
    ordered = sorted(set(layers))
    runs: list[list[int]] = []
    for layer in ordered:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    text = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
    return f"layer {text}" if len(ordered) == 1 else f"layers {text}"


def _says(layers: list[int], text: str) -> list[str]:
    name = layer_ranges(layers)
    return [f"{name[0].upper()}{name[1:]}: {text}"] if layers else []


def layer_flags(facts: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Return sentences about rows and windows: outliers, single dimensions, duplicates, sinks."""

    def where(test) -> list[int]:
        return [layer for layer, found in facts.items() if test(found)]

    def most(name: str, layers: list[int]) -> float:
        return max((facts[layer][name] or 0.0 for layer in layers), default=0.0)

    outliers = where(lambda f: f["outlier_rows"] > 0 and f["outlier_trace_share"] > OUTLIER_SHARE)
    dimension = where(lambda f: f["top_dimension_share"] > DIMENSION_SHARE)
    duplicates = where(lambda f: f["duplicate_rows"] > DUPLICATE_SHARE * f["rows"])

    def beyond(found: Mapping[str, Any]) -> int:
        return found["massive_tokens"] - found["massive_at_position_0"]

    first = where(lambda f: f["massive_at_position_0"] > 0)
    elsewhere = where(lambda f: beyond(f) > 0)
    sinks = where(lambda f: (f["max_norm_ratio"] or 0.0) > NORM_RATIO)
    dimensions = sorted({facts[layer]["top_dimension"] for layer in dimension})
    columns = ", ".join(str(column) for column in dimensions[:4]) + (", ..." if len(dimensions) > 4 else "")
    return [
        *_says(
            outliers,
            f"up to {int(most('outlier_rows', outliers))} outlier rows carry up to "
            f"{most('outlier_trace_share', outliers):.0%} of the trace; the effective rank and every "
            "trace-normalised quantity describe them.",
        ),
        *_says(
            dimension,
            f"one dimension ({columns}) carries up to {most('top_dimension_share', dimension):.0%} of the trace.",
        ),
        *_says(
            duplicates,
            f"up to {int(most('duplicate_rows', duplicates))} rows have an identical twin; "
            "a curvature among equal rows is 1 / eps.",
        ),
        *_says(
            first,
            f"position 0 is a sink: its norm is up to {most('position_0_norm_ratio', first):.0f} times the median, in up to "
            f"{int(most('massive_at_position_0', first))} of {int(most('sink_windows', first))} windows; "
            + (
                "the pool skips it."
                if all(facts[layer]["skipped_positions"] > 0 for layer in first)
                else "the pool holds it."
            ),
        ),
        *_says(
            elsewhere,
            f"up to {max((beyond(facts[layer]) for layer in elsewhere), default=0)} of "
            f"{int(most('sink_tokens', elsewhere) - most('sink_windows', elsewhere)):,} tokens beyond position 0 have more than 10 times the median norm.",
        ),
        *_says(
            sinks,
            f"the largest row norm is up to {most('max_norm_ratio', sinks):.0f} times the median; "
            "attention sinks may be among the rows, raise activations.skip_positions.",
        ),
    ]


def _scale_only(rows: list[Mapping[str, Any]]) -> list[str]:
    """Say whether the stiffness orders the layers as plain distances do, also where rows outnumber dimensions."""
    kept = [row for row in rows if row["identity_ratio"]]
    if len(kept) < 3:
        return []
    ratios = np.array([row["identity_ratio"] for row in kept])
    stiffness = np.array([row["monotonicity"]["value"] for row in kept])
    rho = float(spearman(stiffness, stiffness / ratios))  # monotonicity / ratio = 2 (n - 1) / median squared distance
    if not rho > SAME_ORDER:
        return []
    return [
        f"The monotonicity proxy orders the candidate layers as 1 / median squared distance does (Spearman {rho:.3f}; their "
        f"ratio stays within {ratios.min():.2f} to {ratios.max():.2f}): here too it tells scale, not direction."
    ]


def _bias(rows: list[Mapping[str, Any]]) -> list[str]:
    """Say where the mean of S over resampled documents is not S."""
    shares = {row["layer"]: bias_in_errors(row["score"]) or 0.0 for row in rows}
    large = [layer for layer, share in shares.items() if abs(share) > BIAS_SHARE]
    if not large:
        return []
    worst = max(large, key=lambda layer: abs(shares[layer]))
    return [
        f"At {layer_ranges(large)} the mean of S over resampled documents differs from S by more than half a standard error, "
        f"at layer {worst} by {abs(shares[worst]):.1f}: z-scores are not linear in noisy proxies. The difference is reported "
        "as bias; intervals and selection probabilities are centred on S, which is not corrected for it."
    ]


def bias_in_errors(found: Mapping[str, Any]) -> float | None:
    """Return the bias of a score in units of its standard error; None where either is unknown or the error is 0."""
    bias, error = found.get("bias"), found.get("se")
    return None if bias is None or not error else bias / error


def _dependence(score: Mapping[str, Any]) -> list[str]:
    """Say how many independent rows the rows behind the selected layer are worth."""
    worth, rows = score["effective_rows"], score["rows"]
    if worth is None or rows - worth < 0.5:
        return []
    return [
        f"Averaged over single dimensions, the {rows:,} rows tell as much as {worth:,.0f} independent ones at layer "
        f"{score['selected_layer']}: rows of one document resemble each other."
    ]


def score_flags(score: Mapping[str, Any], constant: tuple[str, ...]) -> list[str]:
    """Return sentences about the score: norm effect, identity, sure or not, variants that disagree."""
    flags = [f"The proxy {name} does not vary over the candidate layers; its z-score is set to 0." for name in constant]
    rows = [row for row in score["layers"] if row["candidate"]]
    selected, probability = score["selected_layer"], score["selection_probability"][str(score["selected_layer"])]
    rho = float(
        spearman(
            *(
                np.array(column)
                for column in zip(*((row["score"]["value"], row["log_mean_norm"]) for row in rows), strict=True)
            )
        )
    )
    if np.isfinite(rho) and abs(rho) >= NORM_CORRELATION:
        flags.append(
            f"Spearman of S with the log mean norm is {rho:.2f}: the raw score largely "
            f"{'measures small norms' if rho < 0 else 'follows the norm'}."
        )
    if all(row["identity_ratio"] is not None and row["identity_ratio"] > 0.95 for row in rows):
        flags.append(
            "The monotonicity proxy equals 2 (n - 1) / median squared distance within 5 % at every candidate layer: "
            "with no more rows than dimensions it carries no directional information."
        )
    else:
        flags += _scale_only(rows)
    if probability is None:
        flags.append(
            f"The {score['documents']} documents were not resampled (it takes 8 of them with rows enough, and "
            "geometry.bootstrap_replicates of 2): there are no intervals and no selection probability."
        )
    elif probability < SURE:
        flags.append(f"Layer {selected} is selected in only {probability:.0%} of the resamples of documents.")
    flags += _bias(rows) + _dependence(score)
    if score["effective_documents"] < FEW_DOCUMENTS:
        flags.append(
            f"The {score['rows']} rows come from {score['documents']} documents, "
            f"worth {score['effective_documents']:.0f} of equal length; intervals are rough."
        )
    others = {
        name: variant["selected"]
        for name, variant in score["variants"].items()
        if name in ("eps_relative", "unit_trace", "unit_trace_without_outliers") and variant["selected"] is not None
    }
    differing = [f"{name} selects layer {layer}" for name, layer in others.items() if layer != selected]
    if differing:
        flags.append(f"The selection depends on scaling: raw selects layer {selected}, {', '.join(differing)}.")
    if score["variants"]["unit_trace_without_outliers"]["selected"] is None:
        flags.append("Without outlier rows too little is left at some layer to measure the trace-normalised score.")
    return flags
