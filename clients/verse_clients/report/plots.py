"""Plots as SVG to stand in a page: text stays text, so the browser's fonts set Chinese names.

Lines and letters take the colour of the page's own text, light or dark.
"""
# matplotlib's stubs leave keyword arguments without types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from verse_clients.decisions.journal import AcceptanceTally
from verse_clients.report.figures import RoundFigures

ACCEPTED, EDITED, REJECTED, QUIET = "#3d8b66", "#c79a2b", "#9a8f8b", "#7a6fa8"
_INK = "#010203"
"""Stands for the page's own colour of text until the plot is in the page."""
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "verse",
    "text.parse_math": False,  # a dollar sign in a name is no formula
    "font.family": "sans-serif",
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), _INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), _INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_WIDTH, _ROW = 7.2, 0.34
"""Inches."""
_PROLOG = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>", re.DOTALL)


def shares(tallies: Sequence[AcceptanceTally]) -> str:
    """Bars of what was accepted, edited and rejected, with the interval of what was taken."""

    def draw(figure: Figure) -> None:
        axes = _percent_axes(figure, [f"{t.name} ({t.decided})" for t in tallies])
        start = [0.0] * len(tallies)
        for name, colour, counts in (
            ("unedited", ACCEPTED, [t.accepted for t in tallies]),
            ("after edits", EDITED, [t.edited for t in tallies]),
            ("rejected", REJECTED, [t.rejected for t in tallies]),
        ):
            width = [100 * n / max(1, t.decided) for n, t in zip(counts, tallies, strict=True)]
            axes.barh(range(len(tallies)), width, left=start, color=colour, height=0.62, label=name)
            start = [a + b for a, b in zip(start, width, strict=True)]
        for place, tally in enumerate(tallies):
            low, high = (100 * end for end in tally.interval)
            axes.plot((low, high), (place, place), color=_INK, linewidth=1.2)
        _legend(axes)

    return _svg("shares", draw, _height(len(tallies)))


def blind(tallies: Sequence[AcceptanceTally]) -> str:
    """A point and its interval for each checkpoint."""

    def draw(figure: Figure) -> None:
        axes = _percent_axes(figure, [f"{tally.name} ({tally.decided})" for tally in tallies])
        for place, tally in enumerate(tallies):
            low, high = (100 * end for end in tally.interval)
            axes.plot((low, high), (place, place), color=ACCEPTED, linewidth=2)
            axes.plot([100 * tally.share], [place], "o", color=ACCEPTED, markersize=7)
        axes.set_xlabel("accepted, of blind decisions, %")

    return _svg("blind", draw, _height(len(tallies)))


def course(rounds: Sequence[RoundFigures]) -> str:
    """What was taken, how varied, how like the poet, and how much copied, round by round."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        places = range(len(rounds))
        axes.set_xticks(places, [one.name for one in rounds])
        axes.set_ylim(0, 104)
        axes.set_ylabel("%")
        ends = [one.tally.interval for one in rounds]
        low, high = ([100 * end[side] for end in ends] for side in (0, 1))
        axes.fill_between(places, low, high, color=ACCEPTED, alpha=0.18, linewidth=0)
        _line(axes, "accepted", ACCEPTED, [one.tally.share for one in rounds])
        measured = [one.measures for one in rounds]
        _line(axes, "distinct-3", EDITED, [m and m.diversity.distinct_3 for m in measured])
        _line(axes, "like the poet", QUIET, [m and m.similarity for m in measured])
        _line(axes, "copies", REJECTED, [m and m.copy_rate for m in measured])
        _legend(axes)

    return _svg("course", draw, 3.2)


def _line(axes: Axes, name: str, colour: str, values: Sequence[float | None]) -> None:
    known = [(place, 100 * value) for place, value in enumerate(values) if value is not None]
    places, heights = [place for place, _ in known], [height for _, height in known]
    axes.plot(places, heights, "o-", color=colour, label=name, markersize=5)


def _percent_axes(figure: Figure, names: Sequence[str]) -> Axes:
    axes = figure.add_subplot()
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("%")
    return axes


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)


def _height(num_rows: int) -> float:
    return 1.2 + _ROW * max(num_rows, 1)


def _svg(name: str, draw: Callable[[Figure], None], height: float) -> str:
    """Draw and make it fit to stand in a page beside others."""
    stream = io.StringIO()
    with rc_context(_STYLE), warnings.catch_warnings():
        # Its own fonts lack Chinese, and need not have it.
        warnings.simplefilter("ignore", UserWarning)
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = _PROLOG.sub("", stream.getvalue()).strip().replace(_INK, "currentColor")
    for reference in ('id="', "url(#", 'href="#'):
        svg = svg.replace(reference, f"{reference}{name}-")
    return svg
