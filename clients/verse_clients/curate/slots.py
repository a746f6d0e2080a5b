"""A place in the queue."""

from typing import NamedTuple

from verse_clients.decisions.sources import Item


class Slot(NamedTuple):
    """A place in the queue."""

    item: Item
    repeat: bool = False
    """Shown again on purpose, to see whether the poet decides alike."""
