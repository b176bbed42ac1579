"""How every figure is drawn and written: object-oriented Agg and SVG only, no global figure state, no dates.

One drawing gives PNG bytes (for UI artifacts), an SVG file, and inline SVG for the report whose colours are CSS
variables, so that figures follow light and dark mode and stay sharp in print.
"""

import io
import math
import re
from html import escape

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from dihal_core.reporting.formatting import MINUS, superscript
from dihal_core.reporting.palette import LIGHT

# Constants of the SVG backend that have no per-figure equivalent: text stays text, ids depend on content only.
matplotlib.rcParams["svg.fonttype"] = "none"
matplotlib.rcParams["svg.hashsalt"] = "dihal"

FONT = 9.0
SMALL = 8.0
DPI = 110


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of `width` x `height` inches on paper colour, laid out without overlaps."""
    figure = Figure(figsize=(width, height), facecolor=LIGHT["paper"], layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06, wspace=0.04, hspace=0.04)  # type: ignore[union-attr]
    return figure


def plain(text: str) -> str:
    """Return `text` with dollar signs escaped, so that a name is never read as mathematics."""
    return text.replace("$", r"\$")


def dress(axes: Axes, title: str = "", xlabel: str = "", ylabel: str = "", grid: str = "y") -> Axes:
    """Give one axes the house look: two thin spines, a quiet grid, left-aligned title."""
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LIGHT["muted"])
        axes.spines[side].set_linewidth(0.7)
    axes.tick_params(colors=LIGHT["muted"], labelsize=SMALL, width=0.7, length=3)
    axes.tick_params(which="minor", length=0)
    if grid:
        axes.grid(True, axis=grid, color=LIGHT["grid"], linewidth=0.7, zorder=0)  # pyright: ignore[reportArgumentType]
    axes.set_axisbelow(True)
    if title:
        axes.set_title(plain(title), loc="left", fontsize=FONT, color=LIGHT["ink"], pad=7, fontweight="bold")
    axes.set_xlabel(plain(xlabel), fontsize=SMALL, color=LIGHT["muted"])
    axes.set_ylabel(plain(ylabel), fontsize=SMALL, color=LIGHT["muted"])
    return axes


def _plain_number(value: float, _position: int | None = None) -> str:
    return f"{value:g}".replace("-", MINUS)


def log_axis(axes: Axes, axis: str = "y") -> None:
    """Make one axis logarithmic with plain-text tick labels."""
    getattr(axes, f"set_{axis}scale")("log")
    target = getattr(axes, f"{axis}axis")
    low, high = sorted(getattr(axes, f"get_{axis}lim")())
    wide = high / max(low, 1e-300) > 50

    def label(value: float, _position: int | None = None) -> str:
        exponent = round(_log10(value))
        if wide or not 1e-3 <= value < 1e4:
            return f"10{superscript(exponent)}" if abs(value - 10.0**exponent) < 1e-6 * value else _plain_number(value)
        return _plain_number(value)

    target.set_major_locator(LogLocator(base=10, subs=(1.0,) if wide else (1.0, 2.0, 3.0, 5.0), numticks=9))
    target.set_major_formatter(FuncFormatter(label))
    target.set_minor_formatter(NullFormatter())


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else 0.0


def linear_axis(axes: Axes, axis: str = "y", bins: int = 5) -> None:
    """Give a linear axis few round ticks with a true minus sign."""
    target = getattr(axes, f"{axis}axis")
    target.set_major_locator(MaxNLocator(bins, steps=[1, 2, 2.5, 5, 10]))
    target.set_major_formatter(FuncFormatter(_plain_number))


def depth_axis(axes: Axes, layers: list[int], label: str = "layer (block index)") -> None:
    """Make x the block index with whole ticks."""
    axes.set_xlim(min(layers) - 0.7, max(layers) + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel(label, fontsize=SMALL, color=LIGHT["muted"])


def legend(axes: Axes, **options: object) -> None:
    """Add a frameless legend if anything is labelled."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        settings = {"frameon": False, "fontsize": SMALL, "labelcolor": LIGHT["ink"], "handlelength": 1.8, **options}
        axes.legend(handles, labels, **settings)  # type: ignore[arg-type]


def note(figure: Figure, text: str) -> Figure:
    """Write one sentence in the middle of an empty figure: what is missing and why."""
    figure.text(0.5, 0.5, plain(text), ha="center", va="center", fontsize=FONT, color=LIGHT["muted"])
    return figure


def png_bytes(figure: Figure, dpi: int = DPI) -> bytes:
    """Return the figure as PNG on paper colour, without software tag or date."""
    out = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png", dpi=dpi, metadata={"Software": None})
    return out.getvalue()


def freeze(figure: Figure) -> Figure:
    """Lay the figure out once, so that writing it in several formats does not repeat the work."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def svg_text(figure: Figure) -> str:
    """Return the figure as SVG text without date or creator."""
    out = io.StringIO()
    FigureCanvasSVG(figure)
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return out.getvalue()


def inline_svg(text: str, name: str, description: str) -> str:
    """Return an SVG file's text for embedding in HTML: described, ids unique to `name`, colours as CSS variables."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r"""\bid="([^"]+)\"""", rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'xlink:href="#', f'href="#{name}-', text)
    text = re.sub(r'\s(?:xmlns(?::xlink)?|version)="[^"]*"', "", text)
    text = re.sub(r"font: ([^;\"]*?)([\d.]+px) [^;\"]*", r"font: \1\2 var(--sans)", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", text)
    for role, colour in LIGHT.items():
        text = re.sub(re.escape(colour), f"var(--{role})", text, flags=re.I)
    head, _, body = text.partition(">")
    view = re.search(r'viewBox="[^"]*"', head)
    label = escape(description, quote=True)
    return f'<svg class="figure" role="img" aria-label="{label}" {view.group(0) if view else ""}>{body}'
