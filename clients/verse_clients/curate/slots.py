"""A place in the queue, and what is odd about the poem that stands there."""

from typing import Literal, NamedTuple

from verse_clients.decisions.sources import Item

FlagKind = Literal["near", "copy", "cut"]


class Flag(NamedTuple):
    """Something to know before deciding."""

    kind: FlagKind
    """Nearly another poem of the queue; taken from a training poem; cut off by the token limit."""
    other: str = ""
    """Id of the other poem (near), or the name of the source (copy)."""
    ratio: float = 0.0
    """How alike, or how much of the poem is copied; 0 to 1."""
    run: str = ""
    """The copied characters."""


class Slot(NamedTuple):
    """A place in the queue."""

    item: Item
    repeat: bool = False
    """Shown again on purpose, to see whether the poet decides alike."""
