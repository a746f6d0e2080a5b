"""Figures about the poet's decisions; nothing here is shown about a poem before it is decided."""

from collections.abc import Iterable
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from verse.records import Decision
from verse.replay import IMPORTED, Replay
from verse_clients.decisions.sources import Item
from verse_clients.decisions.tallies import AcceptanceTally, is_verdict, tallies

_PACE_WINDOW = 20
_PAUSE_SECONDS = 300.0
"""A longer gap is a pause, not thinking."""


class Progress(NamedTuple):
    """How far the poet has come."""

    decided: int
    total: int
    skipped: int
    share: float
    """Accepted of decided; 0 to 1."""
    per_minute: float | None
    """None before the second decision."""
    minutes_left: float | None


def progress(total: int, verdicts: Iterable[Decision], replay: Replay) -> Progress:
    """The line above the poem.

    Args:
        total: Poems of the session.
        verdicts: What stands about them.
        replay: All decisions, for their pace.
    """
    actions = [verdict.action for verdict in verdicts]
    skipped = actions.count("skip")
    decided = len(actions) - skipped
    rate = per_minute(replay)
    left = total - len(actions)
    return Progress(
        decided=decided,
        total=total,
        skipped=skipped,
        share=(actions.count("accept") + actions.count("edit")) / decided if decided else 0.0,
        per_minute=rate,
        minutes_left=left / rate if rate else None,
    )


def per_minute(replay: Replay) -> float | None:
    """Decisions a minute by the median gap of the last twenty; None if there is no gap yet."""
    times = [decision.time for decision in _verdicts(replay)][-_PACE_WINDOW - 1 :]
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    working = [gap for gap in gaps if 0 < gap <= _PAUSE_SECONDS]
    return 60 / median(working) if working else None


def by_source(replay: Replay) -> list[AcceptanceTally]:
    """One tally per adapter and checkpoint, the most decided first."""
    return tallies(replay.verdicts(), lambda verdict: Item(candidate=verdict.candidate).source)


def running_share(replay: Replay) -> list[float]:
    """The accepted share after each decision, in their order."""
    shares: list[float] = []
    accepted = 0
    for verdict in replay.verdicts():
        if is_verdict(verdict):
            accepted += verdict.action != "reject"
            shares.append(accepted / (len(shares) + 1))
    return shares


def stars(replay: Replay) -> list[int]:
    """How many poems have 1, 2, 3, 4 and 5 stars."""
    poems = {e.candidate.id for e in replay.in_effect() if isinstance(e, Decision)}
    given = [replay.stars(poem) for poem in poems]
    return [given.count(number) for number in range(1, 6)]


def edit_distances(replay: Replay) -> list[int]:
    """Characters changed in each edited poem."""
    return [v.edit_distance or 0 for v in replay.verdicts() if v.action == "edit"]


def consistency(replay: Replay) -> tuple[int, int]:
    """Of the poems shown again: how many were decided as before, and how many there were."""
    before: dict[str, bool] = {}
    same = shown = 0
    for decision in _verdicts(replay):
        poem, taken = decision.candidate.id, decision.action != "reject"
        if decision.repeat and poem in before and decision.action != "skip":
            shown += 1
            same += taken == before[poem]
        if decision.action != "skip":
            before[poem] = taken
    return same, shown


def _verdicts(replay: Replay) -> list[Decision]:
    return [
        entry
        for entry in replay.in_effect()
        if isinstance(entry, Decision) and entry.action != "rate" and entry.session != IMPORTED
    ]
