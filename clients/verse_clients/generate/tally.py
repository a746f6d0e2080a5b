"""What a run has done so far, and how fast; the clock is passed in."""

import msgspec

from verse.records import Candidate
from verse_clients.progress import RunProgress, duration

_HOUR_SECONDS = 3600.0


class Tally(msgspec.Struct, kw_only=True):
    """Counts of one run; poems of earlier runs count in `already` alone."""

    total: int
    """Poems of the plan."""
    already: int = 0
    """Of them, those that were there before."""
    begun: float
    """When the run began, in seconds of the caller's clock."""
    written: int = 0
    tokens: int = 0
    """Of the poems written, as the server counted them."""
    duplicates: int = 0
    copies: int = 0
    """Poems that take over a run worth telling; most of them are not blocked."""
    blocked: int = 0
    cut_off: int = 0
    failed: int = 0
    """Poems the server would not write."""

    def count(self, poem: Candidate) -> None:
        """Take a poem in that is on the disk."""
        self.written += 1
        self.tokens += poem.completion_tokens or 0
        self.duplicates += poem.duplicate_of is not None
        self.copies += poem.copied_from is not None
        self.blocked += poem.blocked is not None
        self.cut_off += poem.finish_reason == "length"

    @property
    def done(self) -> int:
        """Poems of the plan that are on the disk."""
        return self.already + self.written

    def poems_per_hour(self, now: float) -> float:
        """Of this run."""
        return _HOUR_SECONDS * self.written / max(now - self.begun, 1e-9)

    def tokens_per_second(self, now: float) -> float:
        """Of this run."""
        return self.tokens / max(now - self.begun, 1e-9)

    def seconds_left(self, now: float) -> float | None:
        """At the speed so far; None before the first poem."""
        if not self.written:
            return None
        return (self.total - self.done - self.failed) * (now - self.begun) / self.written

    def progress(self, now: float) -> RunProgress:
        """For the live line."""
        left = self.seconds_left(now)
        parts = [
            f"{self.poems_per_hour(now):.0f} poems/h",
            f"{self.tokens_per_second(now):.0f} tokens/s",
            f"{self.duplicates} duplicates",
            f"{self.copies} copies",
            f"{self.failed} failed" if self.failed else "",
            "" if left is None else f"{duration(left)} left",
        ]
        return RunProgress(self.done, self.total, ", ".join(part for part in parts if part))
