"""Which checkpoints of an adapter are meant: `best`, `last`, `all`, `85`, `200-1200`, `every:2`."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from verse_clients.errors import SelectionError

PUBLISHED = "published"
"""The weights under the adapter's own name."""

Choice = int | Literal["published", "best", "last"]
"""`best` stays a name until the server says which step it is."""

_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
_EVERY = re.compile(r"every:([1-9]\d{0,8})")


class Interval(NamedTuple):
    """The original project's spelling: every so many steps from a first one."""

    first: int
    step: int


Selection = Sequence[str] | Interval


def parse_checkpoints(text: str) -> Sequence[str]:
    """Split a selection at its commas.

    Raises:
        SelectionError: a part of it is no way to name checkpoints.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts or [""]:
        if part in (PUBLISHED, "best", "last", "all") or _EVERY.fullmatch(part):
            continue
        if not (found := _RANGE.fullmatch(part)) or int(found[2] or found[1]) < int(found[1]):
            raise SelectionError(
                f"{part!r} names no checkpoints; write best, last, all, published, "
                "a step (200), a range (200-1200) or every:2, with commas between."
            )
    return parts


def choose(selection: Selection, steps: Sequence[int], *, is_published: bool) -> list[Choice]:
    """The checkpoints meant, of those there are; each once, in the order given, then by step.

    Args:
        selection: What `parse_checkpoints` gave, or an interval.
        steps: Of the adapter, ascending.
        is_published: Whether it has weights under its own name.
    """
    if isinstance(selection, Interval):
        first, step = selection
        return [found for found in steps if found >= first and (found - first) % step == 0]
    chosen: list[Choice] = [
        found for part in selection for found in _part(part, steps, is_published)
    ]
    return list(dict.fromkeys(chosen))


def _part(part: str, steps: Sequence[int], is_published: bool) -> Sequence[Choice]:
    if part == PUBLISHED:
        return [PUBLISHED] if is_published else []
    if part == "all":
        return steps
    if part == "last":
        return steps[-1:]
    if part == "best":
        return ["best"] if steps else []
    if found := _EVERY.fullmatch(part):
        return steps[int(found[1]) - 1 :: int(found[1])]
    first, _, last = part.partition("-")
    return [step for step in steps if int(first) <= step <= int(last or first)]
