"""Results on standard output: as JSON for programs, as tables and lines for people."""

import sys
from collections.abc import Iterable

import msgspec
from rich.console import Console, RenderableType


def print_json(result: msgspec.Struct) -> None:
    """Print a result for a program, indented."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(result)).decode() + "\n")


def print_parts(parts: Iterable[RenderableType]) -> None:
    """Print tables, and lines that are never broken: a path or a poem's line stays whole."""
    console = Console()
    for part in parts:
        console.print(part, markup=False, highlight=False, soft_wrap=isinstance(part, str))
