"""The report as Markdown and as one HTML page that needs nothing from outside."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from verse_clients.decisions.journal import AcceptanceTally, wilson
from verse_clients.markdown import cell
from verse_clients.report import plots
from verse_clients.report.figures import Duel, Figures, RoundFigures, percent_interval

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
        ("What was accepted, by checkpoint", plots.shares(by_checkpoint)),
        ("Blind decisions", plots.blind(figures.verdict.tallies)),
        ("Round by round", plots.course(figures.rounds)),
    ]
    body = [
        f"<h1>{_TITLE}</h1>",
        f"<p><strong>{escape(figures.verdict.sentence)}</strong></p>",
        warnings,
        f'<p class="note">{_NOTE}</p>',
        *(f"<figure><figcaption>{title}</figcaption>{svg}</figure>" for title, svg in drawn),
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
    title = f"By round (the last five columns of {figures.sample_size} poems of each)"
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
