"""The report as Markdown and as one HTML page that needs nothing from outside."""

from collections.abc import Sequence
from html import escape

from verse_clients.markdown import cell
from verse_clients.report import plots
from verse_clients.report.figures import Figures
from verse_clients.report.tables import Table, tables

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
