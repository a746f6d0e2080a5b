"""Which slots of the queue a filter lets through."""

from collections.abc import Sequence

from verse.records import Decision
from verse_clients.curate.place import Filter, FlagName
from verse_clients.curate.slots import Slot
from verse_clients.decisions.journal import Replay
from verse_clients.screening import Finding, Reason

_REASONS: dict[FlagName, Reason] = {"near": "near", "copy": "copy", "cut": "truncated"}
_ACTION_OF_STATE = {"rejected": "reject", "skipped": "skip", "edited": "edit"}


def lets_through(filter_: Filter, slot: Slot, replay: Replay, flags: Sequence[Finding]) -> bool:
    """Whether a slot belongs to what the poet asked to see."""
    item = slot.item
    verdict = replay.verdict(item.id)
    return (
        (not filter_.theme or item.candidate.theme == filter_.theme)
        and (not filter_.adapter or item.adapter == filter_.adapter)
        and (filter_.flag == "all" or _REASONS[filter_.flag] in {flag.reason for flag in flags})
        and _has_state(filter_.state, verdict, replay.stars(item.id))
        and _holds(filter_.search, slot, verdict)
    )


def _has_state(state: str, verdict: Decision | None, stars: int | None) -> bool:
    if state == "all":
        return True
    if state == "open":
        return verdict is None
    if state == "starred":
        return stars is not None
    if state == "accepted":
        return verdict is not None and verdict.action in ("accept", "edit")
    return verdict is not None and verdict.action == _ACTION_OF_STATE[state]


def _holds(search: str, slot: Slot, verdict: Decision | None) -> bool:
    if not search:
        return True
    candidate = slot.item.candidate
    texts = (candidate.theme, candidate.text, (verdict and verdict.text) or "")
    return any(search.casefold() in text.casefold() for text in texts)
