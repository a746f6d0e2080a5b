"""Poems in columns: for a terminal, and as a Markdown file."""

import html
from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from verse_trainer.adapters.compare import Poem, Row

CUT_OFF = "[cut off: --max-tokens was reached]"


def as_tables(models: Sequence[str], rows: Sequence[Row]) -> Group:
    """One table per theme, one column per model."""
    return Group(*(_table(models, row) for row in rows))


def as_markdown(models: Sequence[str], rows: Sequence[Row]) -> str:
    """The same as a document; lines of a poem are kept, and no poem becomes markup."""
    return "\n".join(_markdown_lines(models, rows)) + "\n"


def _table(models: Sequence[str], row: Row) -> Table:
    # Names and poems are text: rich would take [brackets] in them for markup.
    table = Table(title=Text(_heading(row)), show_lines=True, expand=True, title_justify="left")
    for model in models:
        table.add_column(Text(model), ratio=1, overflow="fold")
    for poems in _lines(row):
        table.add_row(*(Text(_plain(poem)) if poem else "" for poem in poems))
    return table


def _markdown_lines(models: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    yield "# Poems side by side"
    for row in rows:
        yield f"\n## {_escaped(_heading(row))}\n"
        yield _markdown_row(_escaped(model) for model in models)
        yield _markdown_row("---" for _ in models)
        for poems in _lines(row):
            yield _markdown_row(_escaped(_plain(poem)) if poem else "" for poem in poems)


def _markdown_row(cells: Iterator[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _lines(row: Row) -> Iterator[tuple[Poem | None, ...]]:
    """The first poem of every model, then the second; None where a model gave fewer."""
    for place in range(max(map(len, row.columns), default=0)):
        yield tuple(c[place] if place < len(c) else None for c in row.columns)


def _heading(row: Row) -> str:
    return f"{row.theme} (seed {row.seed})"


def _plain(poem: Poem) -> str:
    return f"{poem.text}\n{CUT_OFF}" if poem.is_cut_off else poem.text


def _escaped(text: str) -> str:
    escaped = html.escape(text, quote=False)
    for character in "\\`*_[]|#~":
        escaped = escaped.replace(character, f"\\{character}")
    return "<br>".join(escaped.splitlines())
