"""Markdown tables."""

from collections.abc import Sequence


def markdown(head: Sequence[object], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines of a table."""
    return [_line(head), "|---" * len(head) + "|", *map(_line, rows)]


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
