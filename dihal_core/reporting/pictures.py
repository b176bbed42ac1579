"""Figures with titles and captions, drawn on first use: those of the report, and what a figure of any page is."""

import dataclasses
import functools
from collections.abc import Callable

from matplotlib.figure import Figure

from dihal_core.reporting.canvas import freeze, inline_svg, png_bytes, svg_text
from dihal_core.reporting.draw_agreement import draw_agreement, draw_predictors, draw_sweep
from dihal_core.reporting.draw_locate import draw_geometry, draw_score
from dihal_core.reporting.draw_replace import draw_evaluation, draw_training
from dihal_core.reporting.results import StudyResults


@dataclasses.dataclass(frozen=True)
class Picture:
    """One figure: how to draw it, and what it shows, for readers and for screen readers."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]

    @functools.cached_property
    def figure(self) -> Figure:
        """The drawing, laid out, made on first use."""
        return freeze(self.draw())

    @functools.cached_property
    def svg(self) -> str:
        """Text of the SVG file."""
        return svg_text(self.figure)

    @property
    def markup(self) -> str:
        """Inline SVG that follows the page's colours; trusted markup, all text in it escaped."""
        return inline_svg(self.svg, self.name, f"{self.title}. {self.caption}")

    def files(self, dpi: int) -> dict[str, bytes]:
        """Return the figure as PNG and SVG file contents by name."""
        return {
            f"figures/{self.name}.svg": self.svg.encode(),
            f"figures/{self.name}.png": png_bytes(self.figure, dpi),
        }


def pictures_of(results: StudyResults) -> dict[str, Picture]:
    """Return the figures that the results allow, by name; the two `mini` ones are for the first screen."""
    found: list[Picture] = []
    score, agreement, selected = results.score, results.agreement, None
    if score is not None:
        selected = int(score["selected_layer"])
        found += [
            Picture("mini_score", "Score against depth", "Above S, below P(selected).", lambda: draw_score(score, True)),
            Picture(
                "geometry", "Three proxies against depth",
                "The three proxies at every layer with intervals; the dotted line is the selected layer. Hollow: layers 0 "
                "and L, which are never candidates; a triangle at the edge carries a value that is off the scale.",
                lambda: draw_geometry(score),
            ),
            Picture(
                "score", "Score and selection probability against depth",
                "Score S with its interval, and below how often each layer has the largest S when documents are resampled.",
                lambda: draw_score(score),
            ),
        ]  # fmt: skip
    if results.sweeps:
        found.append(
            Picture(
                "sweep", "Validation losses against depth",
                "Left: fraction of variance unexplained. Right: KL through the untouched upper blocks. Shaded and crossed: "
                "layers without a result. The dotted line is the layer the score selected.",
                lambda: draw_sweep(results.sweeps, results.gaps, selected),
            )
        )  # fmt: skip
    if agreement is not None:
        found += [
            Picture("mini_agreement", "Score against loss", "One point per layer.", lambda: draw_agreement(agreement, None, True)),
            Picture(
                "agreement", "Score against bridge loss and KL",
                "One point per layer, numbered where there is room. A score that predicts runs from upper left to lower right.",
                lambda: draw_agreement(agreement),
            ),
            Picture(
                "predictors", "Rank correlation of every predictor with the bridge loss",
                "Further right predicts better. Circle in colour: the geometry score with its interval. Diamonds: controls "
                "that need no geometry. Grey: variants and single proxies.",
                lambda: draw_predictors(agreement),
            ),
        ]  # fmt: skip
    replace = results.replace
    if replace is not None:
        found.append(
            Picture(
                "training", "Training loss at the chosen layer",
                "Thin: loss of each recorded step. Thick: mean over neighbouring steps. Arms are comparable on validation: "
                "fraction of variance unexplained (FVU) at the checkpoints and, in the table below, at the end.",
                lambda: draw_training(replace),
            )
        )  # fmt: skip
    if results.evaluations:
        found.append(
            Picture(
                "evaluation", "Perplexity and KL of every arm",
                "Intervals from resampling documents. An arrow at the edge carries a value that is off the scale.",
                lambda: draw_evaluation(results.evaluations),
            )
        )  # fmt: skip
    return {picture.name: picture for picture in found}
