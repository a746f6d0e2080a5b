"""What a poem takes over from the training poems, and when that is too much.

Two measures: the longest run of characters shared with one source, and how much of the poem is made
of that source's pieces of four. The second finds a poem stitched from lines that are each short.
"""

from typing import NamedTuple

from verse.similarity import ContainmentIndex, CopyIndex


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
        self._runs = CopyIndex(limits.warn)
        self._pieces = ContainmentIndex()

    def add(self, source: str, text: str) -> None:
        """Make a training poem known under the name `source`."""
        self._runs.add(source, text)
        self._pieces.add(source, text)

    def find(self, text: str) -> CopyFinding | None:
        """The worst copy in a poem; None if there is none worth telling."""
        copy = self._runs.find(text)
        stitched, share = self._pieces.find(text)
        if share >= self._limits.share and (copy is None or share > copy.share):
            # The run is told only if it comes from the source that is named.
            run = copy.run if copy is not None and copy.source == stitched else ""
            return CopyFinding(stitched, run, share, is_blocked=True)
        if copy is None:
            return None
        is_blocked = len(copy.run) >= self._limits.block or copy.share >= self._limits.share
        return CopyFinding(copy.source, copy.run, copy.share, is_blocked)
