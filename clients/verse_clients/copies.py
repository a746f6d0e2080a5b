"""What a poem takes over from the training poems, and when that is too much.

Two measures: the longest run of characters shared with one source, and how much of the poem is made
of that source's pieces of four. The second finds a poem stitched from lines that are each short.
"""

from collections import Counter, defaultdict
from typing import NamedTuple

from verse.likeness import CopyIndex, shingles
from verse_clients.comparison_key import comparison_key, one_script

_PIECE = 4


class CopyLimits(NamedTuple):
    """When a copy is told, and when it is kept from the judge.

    In the original project's honest poems the longest run was six characters.
    """

    warn: int = 8
    """Characters in a row that are worth telling."""
    block: int = 13
    """Characters in a row that are too many."""
    share: float = 0.5
    """Of the poem, 0 to 1, that is too much, by either measure."""


class CopyFinding(NamedTuple):
    """A poem copies a source."""

    source: str
    run: str
    """The longest run, in the poem's script, without punctuation; empty if all are short."""
    share: float
    """Of the poem, 0 to 1: the run's, or that of the source's pieces, whichever is more."""
    is_blocked: bool


class CopyCheck:
    """Knows the training poems; looks at one poem at a time."""

    def __init__(self, limits: CopyLimits = CopyLimits()) -> None:  # noqa: B008
        """Know no poem yet."""
        self._limits = limits
        self._runs = CopyIndex(limits.warn, fold=one_script)
        self._holders: dict[str, set[str]] = defaultdict(set)

    def add(self, source: str, text: str) -> None:
        """Make a training poem known under the name `source`."""
        self._runs.add(source, text)
        for piece in shingles(comparison_key(text), _PIECE):
            self._holders[piece].add(source)

    def find(self, text: str) -> CopyFinding | None:
        """The worst copy in a poem; None if there is none worth telling."""
        copy = self._runs.find(text)
        stitched, share = self._most_contained(text)
        if share >= self._limits.share and (copy is None or share > copy.share):
            # The run is told only if it comes from the source that is named.
            run = copy.run if copy is not None and copy.source == stitched else ""
            return CopyFinding(stitched, run, share, is_blocked=True)
        if copy is None:
            return None
        is_blocked = len(copy.run) >= self._limits.block or copy.share >= self._limits.share
        return CopyFinding(copy.source, copy.run, copy.share, is_blocked)

    def _most_contained(self, text: str) -> tuple[str, float]:
        """The source that holds most of the poem's pieces, and their share."""
        pieces = shingles(comparison_key(text), _PIECE)
        held = Counter(source for piece in pieces for source in self._holders.get(piece, ()))
        if not held:
            return "", 0.0
        # Ties go to the first by name, so that the answer never depends on a set's order.
        source = min(held, key=lambda name: (-held[name], name))
        return source, held[source] / len(pieces)
