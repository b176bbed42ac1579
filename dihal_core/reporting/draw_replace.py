"""Figures of Replace: training curves at the chosen layer, and the arms of every evaluation set."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dihal_core.reporting.canvas import SMALL, dress, legend, linear_axis, log_axis, new_figure, note, plain
from dihal_core.reporting.formatting import DASH, bounds_of, number, value_of
from dihal_core.reporting.palette import (
    ARM_LABELS,
    ARM_LINES,
    ARM_MARKERS,
    ARM_ROLES,
    LIGHT,
    arm_kind,
    arm_label,
    ordered_arms,
)
from dihal_core.reporting.questions import set_label
from dihal_core.reporting.results import Json


def draw_training(replace: Json) -> Figure:
    """Draw training loss against tokens (with a mean over the noisy curve) and, where recorded, FVU on validation."""
    curves = {arm: points for arm, points in (replace.get("curve") or {}).items() if points}
    if not curves:
        return note(new_figure(7.6, 1.6), "No training curve was recorded.")
    validation = {arm: points for arm, points in (replace.get("validation_curve") or {}).items() if points}
    figure = new_figure(9.2, 2.9)
    panels = figure.subplots(1, 2, width_ratios=(1.7, 1)) if validation else [figure.subplots()]
    _training_panel(panels[0], curves)
    if validation:
        windows = (replace.get("validation") or {}).get("curve_windows")
        _validation_panel(panels[1], validation, replace.get("arms") or {}, windows)
    return figure


def _training_panel(axes: Axes, curves: Mapping[str, Sequence[Json]]) -> None:
    dress(axes, "training loss at the chosen layer", "tokens seen", "loss")
    lowest, highest = float("inf"), 0.0
    for arm in ordered_arms(list(curves)):
        points = [(p["tokens"], p["loss"]) for p in curves[arm] if value_of(p.get("loss")) is not None]
        tokens, losses = [p[0] for p in points], [p[1] for p in points]
        kind = arm_kind(arm)
        colour = LIGHT[ARM_ROLES.get(kind, "skip")]
        axes.plot(tokens, losses, color=colour, linewidth=0.7, alpha=0.35, zorder=2)
        axes.plot(
            tokens, _running_mean(losses, len(losses) // 40), color=colour, linewidth=1.7,
            linestyle=ARM_LINES.get(kind, "-"), label=plain(ARM_LABELS.get(kind, arm)), zorder=3,
        )  # fmt: skip
        lowest, highest = min([lowest, *losses]), max([highest, *losses])
    if lowest > 0 and highest / lowest > 10:
        log_axis(axes)
    else:
        linear_axis(axes)
    linear_axis(axes, "x", 6)
    axes.xaxis.set_major_formatter(_thousands)
    legend(axes, loc="best")


def _validation_panel(
    axes: Axes, curves: Mapping[str, Sequence[Json]], arms: Mapping[str, Json | None], windows: int | None
) -> None:
    """Draw FVU on validation against steps; the ridge map, which takes no steps, is a level line."""
    dress(axes, f"FVU on {windows} validation windows" if windows else "FVU on validation", "steps", "FVU")
    for arm in ordered_arms(list(curves)):
        points = [(p["step"], p["fvu"]) for p in curves[arm] if value_of(p.get("fvu")) is not None]
        kind = arm_kind(arm)
        axes.plot(
            [p[0] for p in points], [p[1] for p in points], color=LIGHT[ARM_ROLES.get(kind, "skip")], linewidth=1.5,
            linestyle=ARM_LINES.get(kind, "-"), marker=ARM_MARKERS.get(kind, "o"), markersize=3.2, zorder=3,
        )  # fmt: skip
    ridge = value_of((arms.get("ridge") or {}).get("fvu"))
    if ridge is not None:
        axes.axhline(
            ridge, color=LIGHT["ridge"], linestyle=ARM_LINES["ridge"], linewidth=1.5, label=ARM_LABELS["ridge"]
        )
    linear_axis(axes)
    linear_axis(axes, "x")
    legend(axes, loc="best")


def _thousands(value: float, _position: float | None = None) -> str:
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:g}{unit}"
    return f"{value:g}"


def _running_mean(values: Sequence[float], reach: int) -> list[float]:
    """Return the mean over each value and up to `reach` neighbours on both sides."""
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def draw_evaluation(evals: Mapping[str, Json]) -> Figure:
    """Draw perplexity and KL of every arm with intervals, one row of panels per evaluation set."""
    if not evals:
        return note(new_figure(7.6, 1.6), "No set was evaluated.")
    rows = max(len(block["arms"]) for block in evals.values())
    figure = new_figure(9.2, len(evals) * (0.75 + 0.27 * rows))
    panels = figure.subplots(len(evals), 2, squeeze=False)
    for line, (name, block) in zip(panels, evals.items(), strict=True):
        label = set_label(name)
        _forest(line[0], block["arms"], "ppl", f"{label}: perplexity", True)
        _forest(line[1], block["arms"], "kl", "KL to teacher, nats per token", False)
    return figure


def _forest(axes: Axes, arms: Mapping[str, Json | None], metric: str, title: str, names: bool) -> None:
    """Draw a value and its interval per arm; an arm far off (the skip control) is an arrow with its value."""
    dress(axes, title, grid="x")
    order = ordered_arms(list(arms))[::-1]
    found = {arm: (arms[arm] or {}).get(metric) for arm in order}
    values = {arm: value for arm in order if (value := value_of(found[arm])) is not None}
    limit = 4.0 * sorted(values.values())[(len(values) - 1) // 2] if values else 0.0
    near = {arm: value for arm, value in values.items() if value <= limit}
    ends = [0.0, *(edge for arm, value in near.items() for edge in (bounds_of(found[arm]) or (value,)))]
    low, high = min(ends), max(ends)
    axes.set_xlim(low, high + 0.22 * ((high - low) or 1.0))
    for place, arm in enumerate(order):
        _forest_row(axes, place, arm, found[arm], arm in near)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_yticks(range(len(order)), [plain(arm_label(arm)) if names else "" for arm in order])
    axes.tick_params(axis="y", length=0, labelcolor=LIGHT["ink"])
    axes.spines["left"].set_visible(False)
    linear_axis(axes, "x")


def _forest_row(axes: Axes, place: int, arm: str, found: Json | None, near: bool) -> None:
    value, bounds = value_of(found), bounds_of(found)
    across = axes.get_yaxis_transform()
    if value is None:
        axes.text(0.01, place, DASH, transform=across, va="center", color=LIGHT["muted"])
        return
    kind = arm_kind(arm)
    colour = LIGHT[ARM_ROLES.get(kind, "skip")]
    if not near:
        axes.plot(0.985, place, ">", transform=across, color=colour, markersize=5.5, clip_on=False, zorder=3)
        axes.text(
            0.965, place, number(value), transform=across, ha="right", va="center", fontsize=SMALL, color=LIGHT["ink"]
        )
        return
    if bounds:
        axes.plot(bounds, (place, place), color=colour, linewidth=1.6, solid_capstyle="butt", zorder=2)
    axes.plot(value, place, ARM_MARKERS.get(kind, "o"), color=colour, markersize=5.5, zorder=3)
    axes.annotate(
        number(value), (bounds[1] if bounds else value, place), xytext=(7, 0), textcoords="offset points",
        va="center", fontsize=SMALL, color=LIGHT["ink"], annotation_clip=False,
    )  # fmt: skip
