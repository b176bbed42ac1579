"""The figures of a study as PNG bytes: what a UI artifact shows and what lies beside the report.

Every function takes the JSON result it draws, keeps no state between calls and gives the same bytes each time.
"""

from collections.abc import Mapping, Sequence

from dihal_core.reporting.canvas import DPI, png_bytes
from dihal_core.reporting.draw_agreement import draw_agreement, draw_predictors, draw_sweep
from dihal_core.reporting.draw_locate import draw_geometry, draw_score
from dihal_core.reporting.draw_replace import draw_evaluation, draw_training
from dihal_core.reporting.results import Json, keyed


def figure_geometry(score: Json, dpi: int = DPI) -> bytes:
    """Return the three proxies against depth, with intervals (the paper's figure)."""
    return png_bytes(draw_geometry(score), dpi)


def figure_score(score: Json, dpi: int = DPI) -> bytes:
    """Return the score curve with its interval above the selection probabilities."""
    return png_bytes(draw_score(score), dpi)


def figure_sweep(
    sweeps: Mapping[int, Json] | Sequence[Json],
    gaps: Mapping[int, str] | None = None,
    selected: int | None = None,
    dpi: int = DPI,
) -> bytes:
    """Return FVU and KL per layer for bridge, ridge and regressor; `gaps` are layers that failed."""
    return png_bytes(draw_sweep(keyed(sweeps, "layer"), gaps, selected), dpi)


def figure_agreement(agreement: Json, selected: int | None = None, dpi: int = DPI) -> bytes:
    """Return the scatter of score against loss."""
    return png_bytes(draw_agreement(agreement, selected), dpi)


def figure_predictors(agreement: Json, dpi: int = DPI) -> bytes:
    """Return the rank correlation of the score beside depth, norm, ridge and every variant."""
    return png_bytes(draw_predictors(agreement), dpi)


def figure_training(replace: Json, dpi: int = DPI) -> bytes:
    """Return the training curves at the chosen layer."""
    return png_bytes(draw_training(replace), dpi)


def figure_evaluation(evals: Mapping[str, Json] | Sequence[Json], dpi: int = DPI) -> bytes:
    """Return perplexity and KL of every arm and set, with intervals."""
    return png_bytes(draw_evaluation(keyed(evals, "set")), dpi)
