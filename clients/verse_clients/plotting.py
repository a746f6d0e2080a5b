"""Drawing with matplotlib, once for `verse judge report` and `verse report`.

Figures are made without pyplot, which would look for a screen. Pages get SVG whose text stays text,
so the browser's fonts set Chinese names, and whose lines and letters take the page's own colour;
folders get PNG. What `verse curate` draws is on a Tk canvas: it grows with its window, follows its
dark colours and needs no matplotlib.
"""
# matplotlib's stubs leave keyword arguments without types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import io
import re
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the page's own colour of text until the plot is in the page."""
_SVG_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "verse",
    "text.parse_math": False,  # a dollar sign in a name is no formula
    "font.family": "sans-serif",
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_SVG_INCHES_WIDE = 7.2
_PNG_INCHES = (8, 5)
_DOTS_PER_INCH = 120
_PROLOG = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>", re.DOTALL)


class IntervalRow(NamedTuple):
    """A row of a plot of intervals."""

    name: str
    value: float
    low: float
    high: float
    colour: str


def svg(name: str, draw: Callable[[Axes], None], inches_high: float) -> str:
    """Draw and make it fit to stand in a page beside others."""
    stream = io.StringIO()
    with rc_context(_SVG_STYLE), _unwarned():
        figure = Figure(figsize=(_SVG_INCHES_WIDE, inches_high), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    found = _PROLOG.sub("", stream.getvalue()).strip().replace(INK, "currentColor")
    for reference in ('id="', "url(#", 'href="#'):
        found = found.replace(reference, f"{reference}{name}-")
    return found


def write_png(path: Path, draw: Callable[[Axes], bool]) -> Path | None:
    """Draw and write it, unless `draw` says that there is nothing to show.

    Raises:
        OSError: the disk refuses.
    """
    figure = Figure(figsize=_PNG_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    with _unwarned():
        if not draw(figure.add_subplot()):
            return None
        figure.savefig(path, dpi=_DOTS_PER_INCH)
    return path


@contextmanager
def _unwarned() -> Generator[None]:
    with warnings.catch_warnings():
        # Its own fonts lack Chinese, which a page need not have, and a name in a PNG may.
        warnings.simplefilter("ignore", UserWarning)
        yield


def draw_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows, from the top down."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def draw_intervals(axes: Axes, rows: Sequence[IntervalRow]) -> None:
    """A point and its interval in each row."""
    draw_rows(axes, [row.name for row in rows])
    for place, row in enumerate(rows):
        axes.plot([row.low, row.high], [place, place], color=row.colour, linewidth=2)
        axes.plot([row.value], [place], "o", color=row.colour, markersize=7)
