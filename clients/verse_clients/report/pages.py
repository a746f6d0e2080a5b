"""The report as Markdown and as one HTML page that needs nothing from outside."""
# matplotlib's stubs leave keyword arguments without types.
# pyright: reportUnknownMemberType=false

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from matplotlib.axes import Axes

from verse.terminal import counted
from verse_clients.decisions.tallies import AcceptanceTally, wilson
from verse_clients.markdown import cell
from verse_clients.plotting import INK, IntervalRow, draw_intervals, draw_rows, svg
from verse_clients.report.figures import Duel, Figures, RoundFigures, percent_interval

_ACCEPTED, _EDITED, _REJECTED, _QUIET = "#3d8b66", "#c79a2b", "#9a8f8b", "#7a6fa8"
_INCHES_A_ROW = 0.34
_TITLE = "How the rounds fare"
_NOTE = (
    "Shares with their 95 % intervals after Wilson. What was accepted is what the poet took; no "
    "score of a judge is in here."
)
_MANY = 12
"""Rows from which a table is folded away."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf7; --ink: #23211d; --quiet: #6b665d;
        --line: #ddd8cd; --warn: #9a3324; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #1b1a18; --ink: #e8e4da; --quiet: #a39c8f; --line: #3a372f; --warn: #f08a76; } }
body { background: var(--paper); color: var(--ink); max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; font: 16px/1.55 system-ui, "PingFang SC", "Noto Sans CJK SC",
       "Microsoft YaHei", sans-serif; }
h1, h2 { font-weight: 600; line-height: 1.25; }
h2 { margin-top: 2.2rem; font-size: 1.2rem; }
.note { color: var(--quiet); }
.warning { color: var(--warn); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
th, td { padding: 0.3rem 0.8rem 0.3rem 0; text-align: right; border-bottom: 1px solid var(--line);
         white-space: nowrap; }
th { color: var(--quiet); font-weight: 500; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; white-space: normal; }
summary { cursor: pointer; color: var(--quiet); }
figure { margin: 1.6rem 0; }
figcaption { color: var(--quiet); }
svg { max-width: 100%; height: auto; }
"""


_SHARES = ("decided", "accepted unedited", "accepted after edits", "rejected")


class Table(NamedTuple):
    """A title, a head and rows of as many cells; the first column names, the rest are figures."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


def markdown(figures: Figures) -> str:
    """The tables and the words."""
    parts = [f"# {_TITLE}", cell(figures.verdict.sentence), *_warnings(figures), _NOTE]
    for table in tables(figures):
        parts += [f"## {table.title}", _markdown_table(table)]
    return "\n\n".join(parts) + "\n"


def html(figures: Figures) -> str:
    """The same with plots, in one file."""
    by_checkpoint = figures.by["checkpoint"]
    warnings = "".join(f'<p class="warning">{escape(w)}</p>' for w in figures.warnings)
    drawn = [
        ("What was accepted, by checkpoint", _shares_plot(by_checkpoint)),
        ("Blind decisions", _blind_plot(figures.verdict.tallies)),
        ("Round by round", _course_plot(figures.rounds)),
    ]
    body = [
        f"<h1>{_TITLE}</h1>",
        f"<p><strong>{escape(figures.verdict.sentence)}</strong></p>",
        warnings,
        f'<p class="note">{_NOTE}</p>',
        *(f"<figure><figcaption>{title}</figcaption>{plot}</figure>" for title, plot in drawn),
        *(_html_table(table) for table in tables(figures)),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{_TITLE}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _warnings(figures: Figures) -> list[str]:
    return [f"**Warning.** {cell(warning)}" for warning in figures.warnings]


def _markdown_table(table: Table) -> str:
    lines = [table.head, ("---",) + ("---:",) * (len(table.head) - 1), *table.rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)


def _html_table(table: Table) -> str:
    head = _html_row("th", table.head)
    rows = "\n".join(_html_row("td", row) for row in table.rows)
    inside = f'<div class="wide"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
    if len(table.rows) > _MANY:
        inside = f"<details><summary>{len(table.rows)} rows</summary>{inside}</details>"
    return f"<h2>{escape(table.title)}</h2>\n{inside}"


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def tables(figures: Figures) -> list[Table]:
    """All tables of a report, in their order."""
    found = [Table("All decisions", ("", *_SHARES), [_row(figures.overall)])]
    found += [
        Table(f"By {group}", (group, *_SHARES), [_row(tally) for tally in tallies])
        for group, tallies in figures.by.items()
    ]
    found.append(Table("Blind decisions", ("checkpoint", *_SHARES), _rows(figures.verdict.tallies)))
    if figures.verdict.duels:
        found.append(_duels(figures.verdict.duels))
    found.append(_rounds(figures))
    return found


def _rows(tallies: Iterable[AcceptanceTally]) -> list[tuple[str, ...]]:
    return [_row(tally) for tally in tallies]


def _row(tally: AcceptanceTally) -> tuple[str, ...]:
    counts = (tally.accepted, tally.edited, tally.rejected)
    return (tally.name, str(tally.decided), *(_share(count, tally.decided) for count in counts))


def _share(count: int, of: int) -> str:
    """`40 % (34-47 %)`, the interval after Wilson."""
    return f"{count / of:.0%} ({percent_interval(wilson(count, of))})" if of else "-"


def _duels(duels: Sequence[Duel]) -> Table:
    rows = [
        (duel.name, str(duel.won), str(duel.lost), str(duel.tied), percent_interval(duel.interval))
        for duel in duels
    ]
    return Table("Side by side, blind", ("checkpoint", "won", "lost", "tied", "share won"), rows)


def _rounds(figures: Figures) -> Table:
    title = f"By round (the last five columns of {counted(figures.sample_size, 'poem')} of each)"
    head = (
        *("round", "written", *_SHARES, "distinct-3", "self-repetition", "same first line"),
        *("copies", "like the poet"),
    )
    return Table(title, head, [_round(one) for one in figures.rounds])


def _round(one: RoundFigures) -> tuple[str, ...]:
    row = (one.name, str(one.num_written), *_row(one.tally)[1:])
    if one.measures is None:
        return (*row, *["-"] * 5)
    of = one.measures
    return (
        *row,
        f"{of.diversity.distinct_3:.3f}",
        f"{of.diversity.self_repetition:.1%}",
        f"{of.diversity.commonest_first_line_share:.1%}",
        f"{of.copy_rate:.1%}",
        f"{of.similarity:.1%}",
    )


def _shares_plot(tallies: Sequence[AcceptanceTally]) -> str:
    """Bars of what was accepted, edited and rejected, with the interval of what was taken."""

    def draw(axes: Axes) -> None:
        draw_rows(axes, [f"{tally.name} ({tally.decided})" for tally in tallies])
        _percent(axes)
        start = [0.0] * len(tallies)
        for name, colour, counts in (
            ("unedited", _ACCEPTED, [t.accepted for t in tallies]),
            ("after edits", _EDITED, [t.edited for t in tallies]),
            ("rejected", _REJECTED, [t.rejected for t in tallies]),
        ):
            width = [100 * n / max(1, t.decided) for n, t in zip(counts, tallies, strict=True)]
            axes.barh(range(len(tallies)), width, left=start, color=colour, height=0.62, label=name)
            start = [a + b for a, b in zip(start, width, strict=True)]
        for place, tally in enumerate(tallies):
            low, high = (100 * end for end in tally.interval)
            axes.plot((low, high), (place, place), color=INK, linewidth=1.2)
        _legend(axes)

    return svg("shares", draw, _height(len(tallies)))


def _blind_plot(tallies: Sequence[AcceptanceTally]) -> str:
    """A point and its interval for each checkpoint."""

    def draw(axes: Axes) -> None:
        draw_intervals(axes, [_estimate(tally) for tally in tallies])
        _percent(axes, "accepted, of blind decisions, %")

    return svg("blind", draw, _height(len(tallies)))


def _course_plot(rounds: Sequence[RoundFigures]) -> str:
    """What was taken, how varied, how like the poet, and how much copied, round by round."""

    def draw(axes: Axes) -> None:
        places = range(len(rounds))
        axes.set_xticks(places, [one.name for one in rounds])
        axes.set_ylim(0, 104)
        axes.set_ylabel("%")
        ends = [one.tally.interval for one in rounds]
        low, high = ([100 * end[side] for end in ends] for side in (0, 1))
        axes.fill_between(places, low, high, color=_ACCEPTED, alpha=0.18, linewidth=0)
        _line(axes, "accepted", _ACCEPTED, [one.tally.share for one in rounds])
        measured = [one.measures for one in rounds]
        _line(axes, "distinct-3", _EDITED, [m and m.diversity.distinct_3 for m in measured])
        _line(axes, "like the poet", _QUIET, [m and m.similarity for m in measured])
        _line(axes, "copies", _REJECTED, [m and m.copy_rate for m in measured])
        _legend(axes)

    return svg("course", draw, 3.2)


def _line(axes: Axes, name: str, colour: str, values: Sequence[float | None]) -> None:
    known = [(place, 100 * value) for place, value in enumerate(values) if value is not None]
    places, heights = [place for place, _ in known], [height for _, height in known]
    axes.plot(places, heights, "o-", color=colour, label=name, markersize=5)


def _estimate(tally: AcceptanceTally) -> IntervalRow:
    low, high = (100 * end for end in tally.interval)
    return IntervalRow(f"{tally.name} ({tally.decided})", 100 * tally.share, low, high, _ACCEPTED)


def _percent(axes: Axes, label: str = "%") -> None:
    axes.set_xlim(0, 100)
    axes.set_xlabel(label)


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)


def _height(num_rows: int) -> float:
    return 1.2 + _INCHES_A_ROW * max(num_rows, 1)
