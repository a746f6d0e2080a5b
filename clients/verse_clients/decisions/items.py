"""What files of poems hold: a candidate, and what judges or an older list say about it."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from verse.model_spelling import BASE
from verse.records import Candidate
from verse.verdicts import Verdict

Past = Literal["accept", "edit", "reject"]
PAST: Mapping[Verdict | None, Past] = {
    "accepted": "accept",
    "edited": "edit",
    "rejected": "reject",
}
"""What a verdict in a file is as a decision; all others leave it to the poet."""


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One poem as a file presents it."""

    candidate: Candidate
    number: int = 0
    """Its place among all poems that were read, from 1."""
    score: float | None = None
    """The judges' total; higher is better."""
    rank: int | None = None
    """1 is the best."""
    disagreement: float | None = None
    """How far the judges are apart; higher is further."""
    past: Past | None = None
    """What its file says was decided about it."""

    @property
    def id(self) -> str:
        """The candidate's."""
        return self.candidate.id

    @property
    def adapter(self) -> str:
        """The adapter's name; `base` for the base model alone."""
        return self.candidate.adapter or BASE

    @property
    def source(self) -> str:
        """Adapter and checkpoint in one, as a request would name them."""
        return self.candidate.model
