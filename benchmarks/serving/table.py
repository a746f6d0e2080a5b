"""Markdown tables, and whose turn it is in what they show."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def in_turn(all_of_them: Sequence[T], number: int) -> list[T]:
    """Forth in even turns and back in odd ones, so that a steady drift of the machine cancels."""
    return list(all_of_them if number % 2 == 0 else reversed(all_of_them))


def markdown(head: Sequence[object], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines of a table."""
    return [_line(head), "|---" * len(head) + "|", *map(_line, rows)]


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
