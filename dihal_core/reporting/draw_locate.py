"""Figures of Locate: the three proxies against depth (the paper's figure), score and selection probability."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dihal_core.reporting.canvas import (
    SMALL,
    depth_axis,
    dress,
    linear_axis,
    log_axis,
    new_figure,
    note,
    plain,
)
from dihal_core.reporting.formatting import bounds_of, number, value_of
from dihal_core.reporting.palette import LIGHT
from dihal_core.reporting.results import Json

PROXIES = (
    ("curvature", "local curvature", "larger is better"),
    ("monotonicity", "monotonicity (stiffness)", "larger is better"),
    ("effective_rank", "effective rank", "smaller is better"),
)


def _series(rows: Sequence[Json], key: str) -> tuple[list[int], list[float], list[float], list[float]]:
    """Return layers, values, lows and highs where a value is present; a missing interval collapses to the value."""
    found = [(int(row["layer"]), value_of(row.get(key)), bounds_of(row.get(key))) for row in rows]
    kept = [(layer, value, bounds or (value, value)) for layer, value, bounds in found if value is not None]
    return [k[0] for k in kept], [k[1] for k in kept], [k[2][0] for k in kept], [k[2][1] for k in kept]


def _band(axes: Axes, rows: Sequence[Json], key: str, role: str = "predicted") -> list[int]:
    layers, values, lows, highs = _series(rows, key)
    axes.fill_between(layers, lows, highs, color=LIGHT[role], alpha=0.18, linewidth=0, zorder=2)
    axes.plot(layers, values, color=LIGHT[role], linewidth=1.4, marker="o", markersize=2.8, zorder=3)
    return layers


def selected_line(axes: Axes, layer: int, text: str = "") -> None:
    axes.axvline(layer, color=LIGHT["predicted"], linewidth=1.0, linestyle=(0, (2, 2)), zorder=1)
    if text:
        axes.annotate(
            plain(text),
            (layer, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(5, -2),
            textcoords="offset points",
            va="top",
            fontsize=SMALL,
            color=LIGHT["predicted"],
        )


def draw_geometry(score: Json) -> Figure:
    """Draw the three proxies against depth; the controls 0 and L are hollow, off-scale ones are arrows with values."""
    figure = new_figure(9.2, 2.75)
    rows = sorted(score["layers"], key=lambda row: row["layer"])
    candidates = [row for row in rows if row["candidate"]]
    for axes, (key, title, direction) in zip(figure.subplots(1, 3), PROXIES, strict=True):
        dress(axes, title)
        if not _band(axes, candidates, key):
            axes.text(
                0.5, 0.5, "no values", transform=axes.transAxes, ha="center", color=LIGHT["muted"], fontsize=SMALL
            )
            continue
        values = [v for row in candidates for v in (value_of(row[key]), *(bounds_of(row[key]) or ())) if v is not None]
        if min(values) > 0 and max(values) / min(values) > 20:
            log_axis(axes)
        else:
            linear_axis(axes)
        _controls(axes, [row for row in rows if not row["candidate"]], key)
        depth_axis(axes, [row["layer"] for row in rows])
        axes.annotate(
            direction, (1, 1), xycoords="axes fraction", ha="right", va="top", fontsize=SMALL, color=LIGHT["muted"]
        )
        selected_line(axes, score["selected_layer"])
    return figure


def _controls(axes: Axes, controls: Sequence[Json], key: str) -> None:
    """Add layers 0 and L without letting them set the scale (layer 0 can be a millionfold off)."""
    low, high = axes.get_ylim()
    for row in controls:
        value = value_of(row.get(key))
        if value is None:
            continue
        inside = low <= value <= high
        place = value if inside else high if value > high else low
        marker = "o" if inside else "^" if value > high else "v"
        axes.plot(
            row["layer"], place, marker=marker, markersize=4.5, color=LIGHT["muted"], markerfacecolor=LIGHT["paper"],
            clip_on=False, linestyle="none", zorder=4,
        )  # fmt: skip
        if not inside:
            left = row["layer"] == 0
            axes.annotate(
                f"{number(value, 2)}", (row["layer"], place), xytext=(6 if left else -6, -1 if value > high else 3),
                textcoords="offset points", ha="left" if left else "right", va="top" if value > high else "bottom",
                fontsize=SMALL - 0.5, color=LIGHT["muted"],
            )  # fmt: skip
    axes.set_ylim(low, high)


def draw_score(score: Json, compact: bool = False) -> Figure:
    """Draw S against depth with its interval and, below, the probability that a layer is selected."""
    rows = [row for row in sorted(score["layers"], key=lambda row: row["layer"]) if row["candidate"]]
    if not any(value_of(row["score"]) is not None for row in rows):
        return note(new_figure(7.6, 2.0), "No layer has a score.")
    figure = new_figure(3.9, 2.35) if compact else new_figure(9.2, 3.7)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1) if compact else (2.6, 1))
    dress(top, "" if compact else "score S, with interval over documents", ylabel="score S")
    linear_axis(top, bins=4)
    top.axhline(0, color=LIGHT["muted"], linewidth=0.7, zorder=1)
    layers = _band(top, rows, "score")
    selected = score["selected_layer"]
    selected_line(top, selected, f"layer {selected}")
    dress(bottom, "" if compact else "selection probability", ylabel="P(selected)" if compact else "")
    probability = [row["selection_probability"] or 0.0 for row in rows]
    colours = [LIGHT["predicted"] if row["layer"] == selected else LIGHT["skip"] for row in rows]
    bottom.bar([row["layer"] for row in rows], probability, width=0.72, color=colours, zorder=3)
    bottom.set_ylim(0, 1)
    linear_axis(bottom, bins=2)
    if not compact:
        for row, p in zip(rows, probability, strict=True):
            if p >= 0.01:
                bottom.annotate(
                    number(p, decimals=2), (row["layer"], p), xytext=(0, 2) if p < 0.8 else (9, -9),
                    textcoords="offset points", ha="center" if p < 0.8 else "left", fontsize=SMALL, color=LIGHT["ink"],
                )  # fmt: skip
    depth_axis(bottom, layers)
    figure.align_ylabels()
    return figure


def draw_cka(layers: Sequence[int], matrix: Sequence[Sequence[float]], selected: int | None = None) -> Figure:
    """Draw the similarity of every two layers; the selected layer is framed."""
    figure = new_figure(5.4, 4.6)
    axes = figure.subplots()
    dress(axes, "", "layer", "layer", grid="")
    values_LL = np.asarray(matrix, dtype=np.float64)
    edges = np.append(np.asarray(layers, dtype=np.float64) - 0.5, layers[-1] + 0.5)
    mesh = axes.pcolormesh(
        edges, edges, values_LL, cmap="cividis", vmin=min(0.0, float(np.nanmin(values_LL))), vmax=1.0
    )
    axes.set_aspect("equal")
    axes.invert_yaxis()
    bar = figure.colorbar(mesh, ax=axes, shrink=0.85)
    bar.ax.tick_params(labelsize=SMALL, colors=LIGHT["muted"])
    bar.outline.set_visible(False)  # type: ignore[operator]
    if selected is not None and selected in layers:
        axes.add_patch(
            Rectangle((selected - 0.5, edges[0]), 1.0, edges[-1] - edges[0], fill=False, edgecolor=LIGHT["observed"])
        )
    return figure
