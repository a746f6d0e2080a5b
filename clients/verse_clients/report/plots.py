"""What was accepted, by checkpoint and round by round, as SVG for the page."""
# matplotlib's stubs leave keyword arguments without types.
# pyright: reportUnknownMemberType=false

from collections.abc import Sequence

from matplotlib.axes import Axes

from verse_clients.decisions.journal import AcceptanceTally
from verse_clients.plotting import INK, IntervalRow, draw_intervals, draw_rows, svg
from verse_clients.report.figures import RoundFigures

ACCEPTED, EDITED, REJECTED, QUIET = "#3d8b66", "#c79a2b", "#9a8f8b", "#7a6fa8"
_INCHES_A_ROW = 0.34


def shares(tallies: Sequence[AcceptanceTally]) -> str:
    """Bars of what was accepted, edited and rejected, with the interval of what was taken."""

    def draw(axes: Axes) -> None:
        draw_rows(axes, [f"{tally.name} ({tally.decided})" for tally in tallies])
        _percent(axes)
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
            axes.plot((low, high), (place, place), color=INK, linewidth=1.2)
        _legend(axes)

    return svg("shares", draw, _height(len(tallies)))


def blind(tallies: Sequence[AcceptanceTally]) -> str:
    """A point and its interval for each checkpoint."""

    def draw(axes: Axes) -> None:
        draw_intervals(axes, [_estimate(tally) for tally in tallies])
        _percent(axes, "accepted, of blind decisions, %")

    return svg("blind", draw, _height(len(tallies)))


def course(rounds: Sequence[RoundFigures]) -> str:
    """What was taken, how varied, how like the poet, and how much copied, round by round."""

    def draw(axes: Axes) -> None:
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

    return svg("course", draw, 3.2)


def _line(axes: Axes, name: str, colour: str, values: Sequence[float | None]) -> None:
    known = [(place, 100 * value) for place, value in enumerate(values) if value is not None]
    places, heights = [place for place, _ in known], [height for _, height in known]
    axes.plot(places, heights, "o-", color=colour, label=name, markersize=5)


def _estimate(tally: AcceptanceTally) -> IntervalRow:
    low, high = (100 * end for end in tally.interval)
    return IntervalRow(f"{tally.name} ({tally.decided})", 100 * tally.share, low, high, ACCEPTED)


def _percent(axes: Axes, label: str = "%") -> None:
    axes.set_xlim(0, 100)
    axes.set_xlabel(label)


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)


def _height(num_rows: int) -> float:
    return 1.2 + _INCHES_A_ROW * max(num_rows, 1)
