"""Figures of the test of Locate: sweep losses, score against loss, every predictor beside the score."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dihal_core.reporting.canvas import (
    FONT,
    SMALL,
    depth_axis,
    dress,
    legend,
    linear_axis,
    new_figure,
    note,
    plain,
)
from dihal_core.reporting.draw_locate import selected_line
from dihal_core.reporting.formatting import bounds_of, number, value_of
from dihal_core.reporting.palette import ARM_LABELS, ARM_LINES, ARM_MARKERS, ARM_ROLES, LIGHT
from dihal_core.reporting.questions import HEADLINE_LOSS
from dihal_core.reporting.results import Json
from dihal_core.reporting.tables_locate import PREDICTORS


def draw_sweep(
    sweeps: Mapping[int, Json], gaps: Mapping[int, str] | None = None, selected: int | None = None
) -> Figure:
    """Draw FVU and KL per layer for bridge, ridge and regressor; layers that failed are shaded and crossed."""
    gaps = gaps or {}
    layers = sorted({*sweeps, *gaps})
    if not layers:
        return note(new_figure(7.6, 2.0), "No layer was swept.")
    figure = new_figure(9.2, 3.1)
    metrics = (("fvu", "fraction of variance unexplained"), ("kl", "KL(teacher \u2016 hybrid), nats per token"))
    for axes, (metric, title) in zip(figure.subplots(1, 2), metrics, strict=True):
        dress(axes, title)
        found = False
        for arm in ("bridge", "ridge", "regressor"):
            values = [_loss(sweeps.get(layer), arm, metric) for layer in layers]
            if any(value is not None for value in values):
                found = True
                _arm_line(axes, layers, values, arm)
        for layer in gaps:
            axes.axvspan(layer - 0.5, layer + 0.5, color=LIGHT["gap"], linewidth=0, zorder=0)
            axes.text(
                layer, 0.02, "\u00d7", transform=axes.get_xaxis_transform(), ha="center", fontsize=FONT,
                color=LIGHT["observed"], fontweight="bold",
            )  # fmt: skip
        if found:
            axes.set_ylim(bottom=0)
        linear_axis(axes)
        depth_axis(axes, layers)
        if selected is not None:
            selected_line(axes, selected)
        legend(axes, loc="best")
    return figure


def _loss(block: Json | None, arm: str, metric: str) -> float | None:
    return value_of(((block or {}).get("arms", {}).get(arm) or {}).get(metric))


def _arm_line(axes: Axes, layers: Sequence[int], values: Sequence[float | None], arm: str) -> None:
    """Draw one arm; a line runs only between neighbours, an arm trained at few layers is markers."""
    colour = LIGHT[ARM_ROLES[arm]]
    present = [value is not None for value in values]
    sparse = sum(present) < 0.6 * len(layers)
    axes.plot(
        layers, [math.nan if value is None else value for value in values],
        color=colour, linestyle="none" if sparse else ARM_LINES[arm], linewidth=1.5, marker=ARM_MARKERS[arm],
        markersize=4.5 if sparse else 2.8, label=ARM_LABELS[arm], zorder=4 if arm == "bridge" else 3,
    )  # fmt: skip


def draw_agreement(agreement: Json, selected: int | None = None, compact: bool = False) -> Figure:
    """Draw score against loss, one numbered point per layer; the predicted and the observed best are marked."""
    metrics = [HEADLINE_LOSS] if compact else [HEADLINE_LOSS, "kl"]
    titles = {HEADLINE_LOSS: "bridge loss (FVU)", "kl": "KL(teacher \u2016 hybrid), nats"}
    figure = new_figure(3.9, 2.35) if compact else new_figure(9.2, 3.7)
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        block = agreement["losses"].get(metric) or {}
        rho = number(value_of(block.get("spearman")), decimals=2)
        title = "" if compact else f"{titles[metric]}: Spearman {rho}"
        dress(axes, title, "geometry score S", titles[metric] if compact else "", grid="both")
        points = [
            (int(p["layer"]), value_of(p.get("score")), value_of(p.get(metric))) for p in agreement.get("points", [])
        ]
        complete = [(layer, x, y) for layer, x, y in points if x is not None and y is not None]
        if not complete:
            axes.text(
                0.5, 0.5, "no values", transform=axes.transAxes, ha="center", color=LIGHT["muted"], fontsize=SMALL
            )
            continue
        _scatter(axes, complete, selected if selected is not None else block.get("best_predicted"), not compact)
    return figure


def _scatter(axes: Axes, points: Sequence[tuple[int, float, float]], predicted: int | None, numbers: bool) -> None:
    best = min(points, key=lambda p: (p[2], p[0]))[0]
    for layer, x, y in points:
        if layer == predicted:
            axes.plot(x, y, "o", color=LIGHT["predicted"], markersize=6.5, zorder=6, label=f"predicted: layer {layer}")
        elif layer != best:
            axes.plot(x, y, "o", color=LIGHT["skip"], markersize=4.0, zorder=3)
        if layer == best:
            axes.plot(
                x, y, "o", color=LIGHT["observed"], markersize=11 if best == predicted else 8, markeredgewidth=1.5,
                markerfacecolor="none", zorder=5, label=f"observed best: layer {layer}",
            )  # fmt: skip
    axes.margins(0.08, 0.12)
    linear_axis(axes)
    linear_axis(axes, "x")
    if numbers:
        _layer_numbers(axes, [p for p in points if p[0] not in (predicted, best)])
    legend(axes, loc="best", handletextpad=0.3)


def _layer_numbers(axes: Axes, points: Sequence[tuple[int, float, float]]) -> None:
    """Number points, leaving out those whose number would cover another one."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    placed: list[tuple[float, float]] = []
    for layer, x, y in points:
        place = (x - left) / (right - left), (y - bottom) / (top - bottom)
        if any(abs(place[0] - u) < 0.035 and abs(place[1] - v) < 0.04 for u, v in placed):
            continue
        placed.append(place)
        axes.annotate(
            str(layer), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=SMALL - 1.0, color=LIGHT["muted"]
        )


def draw_predictors(agreement: Json, loss: str = HEADLINE_LOSS) -> Figure:
    """Draw the rank correlation of every predictor, best on top; the score carries its interval."""
    block: dict[str, Any] = agreement["losses"].get(loss) or {}
    found = {name: value_of(item.get("spearman")) for name, item in (block.get("predictors") or {}).items()}
    order = sorted((name for name in found if found[name] is not None), key=lambda name: -(found[name] or 0.0))[::-1]
    if not order:
        return note(new_figure(7.6, 1.6), "No predictor could be compared.")
    figure = new_figure(9.2, 0.7 + 0.27 * len(order))
    axes = dress(figure.subplots(), xlabel="Spearman correlation with minus the bridge loss (1 = same order)", grid="x")
    bounds = bounds_of(block.get("spearman"))
    for place, name in enumerate(order):
        ours = name == "raw"
        control = name in ("depth", "minus_log_norm", "ridge_r2")
        role = "predicted" if ours else "ink" if control else "skip"
        value = found[name] or 0.0
        if ours and bounds:
            axes.plot(
                bounds, (place, place), color=LIGHT[role], linewidth=4, alpha=0.25, solid_capstyle="butt", zorder=2
            )
        axes.plot(value, place, "D" if control else "o", color=LIGHT[role], markersize=6, zorder=3)
        axes.annotate(
            number(value, decimals=2), (bounds[1] if ours and bounds else value, place), xytext=(8, 0), textcoords="offset points", va="center",
            fontsize=SMALL, color=LIGHT["ink"] if role != "skip" else LIGHT["muted"], zorder=4,
        )  # fmt: skip
    axes.set_yticks(range(len(order)), [plain(PREDICTORS.get(name) or name) for name in order])
    axes.tick_params(axis="y", length=0, labelcolor=LIGHT["ink"])
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=LIGHT["muted"], linewidth=0.7, zorder=1)
    lowest = min([0.0, *(value or 0.0 for value in found.values() if value is not None), *(bounds or ())])
    axes.set_xlim(min(-0.05, lowest - 0.05), 1.12)
    axes.set_xticks([tick / 4 for tick in range(-4, 5) if tick / 4 >= axes.get_xlim()[0]])
    linear_labels = [number(tick, decimals=2) if tick else "0" for tick in axes.get_xticks()]
    axes.set_xticklabels(linear_labels)
    return figure
