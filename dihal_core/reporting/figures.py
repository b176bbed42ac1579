"""The figures that UI artifacts show, as PNG bytes; what lies beside the report is drawn by `pictures.pictures_of`.

Every function takes the JSON result it draws, keeps no state between calls and gives the same bytes each time.
"""

from dihal_core.reporting.canvas import DPI, png_bytes
from dihal_core.reporting.draw_agreement import draw_agreement
from dihal_core.reporting.draw_locate import draw_geometry, draw_score
from dihal_core.reporting.draw_replace import draw_training
from dihal_core.reporting.results import Json


def figure_geometry(score: Json, dpi: int = DPI) -> bytes:
    """Return the three proxies against depth, with intervals (the paper's figure)."""
    return png_bytes(draw_geometry(score), dpi)


def figure_score(score: Json, dpi: int = DPI) -> bytes:
    """Return the score curve with its interval above the selection probabilities."""
    return png_bytes(draw_score(score), dpi)


def figure_agreement(agreement: Json, selected: int | None = None, dpi: int = DPI) -> bytes:
    """Return the scatter of score against loss."""
    return png_bytes(draw_agreement(agreement, selected), dpi)


def figure_training(replace: Json, dpi: int = DPI) -> bytes:
    """Return the training curves at the chosen layer."""
    return png_bytes(draw_training(replace), dpi)
