"""The sentences of the window, from what they are about, and how a change is marked.

While sources are hidden, none of them follows from an adapter, a checkpoint, a score or a rank.
"""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from rapidfuzz.distance import Levenshtein

from verse.records import Decision, PairDecision
from verse_clients.curate.keymap import Keymap
from verse_clients.curate.queue import Filter
from verse_clients.curate.session import CurationSession
from verse_clients.curate.statistics import progress
from verse_clients.decisions.sources import Item
from verse_clients.screening import Finding

_DONE = {"accept": "Accepted", "edit": "Accepted with changes", "reject": "Rejected",
         "skip": "Skipped", "rate": "Stars given"}  # fmt: skip
_STATES = {"open": "undecided", "all": ""}
_FLAGS = {"near": "near-duplicates", "copy": "copies", "cut": "cut off", "thought": "thinking"}
_PLAIN_FLAGS = {
    "truncated": "cut off by the token limit",
    "thought": "holds a model's thinking",
}
"""Flags that name no other poem: there is nowhere to go from them."""
_MINUTES_PER_HOUR = 60


def progress_line(session: CurationSession) -> str:
    """How far the poet has come: `37 of 300 · 41 % accepted · 5.2 a minute · 50 min left`."""
    now = progress(len(session.items), session.verdicts(), session.replay)
    parts = [f"{now.decided} of {now.total}"]
    if now.decided:
        parts.append(f"{now.share:.0%} accepted")
    if now.skipped:
        parts.append(f"{now.skipped} skipped")
    if now.per_minute:
        parts.append(f"{now.per_minute:.1f} a minute")
    if now.minutes_left:
        parts.append(f"{_duration(now.minutes_left)} left")
    return " · ".join(parts)


def position_line(session: CurationSession) -> str:
    """Which poem this is, and which ones are shown."""
    slot = session.current
    if slot is None:
        return filter_line(session.filter)
    parts = [f"No. {session.number(slot.item.id)}"]
    verdict = session.verdict
    if slot.repeat and verdict is None:
        parts.append("shown again")
    if verdict is not None:
        parts.append(_DONE[verdict.action].lower())
    shown = filter_line(session.filter)
    if shown:
        parts.append(f"{session.cursor + 1} of {len(session.visible)} in {shown}")
    if not (session.blind or session.source_shown):
        parts.append("not blind: this order follows scores or sources")
    return " · ".join(parts)


def filter_line(filter_: Filter) -> str:
    """What a filter lets through; empty if it is everything."""
    parts = [_STATES.get(filter_.state, filter_.state)]
    parts.append(f"《{filter_.theme}》" if filter_.theme else "")
    parts.append(filter_.adapter)
    parts.append(_FLAGS.get(filter_.flag, ""))
    parts.append(f"“{filter_.search}”" if filter_.search else "")
    return ", ".join(part for part in parts if part)


def source_text(session: CurationSession, keymap: Keymap) -> str:
    """Where the current poem comes from, or how to see it."""
    if session.current is None:
        return ""
    if session.source_shown:
        return source_line(session.current.item)
    key = keymap.shown("blind")
    return f"Source hidden ({key})" if key else "Source hidden"


def source_line(item: Item) -> str:
    """Where a poem comes from: `xuzhimo@85 · score 3.9 · rank 12`."""
    parts = [item.source]
    if item.candidate.variant:
        parts.append(item.candidate.variant)
    if item.score is not None:
        parts.append(f"score {item.score:.3g}")
    if item.rank is not None:
        parts.append(f"rank {item.rank}")
    return " · ".join(parts)


def last_line(decision: Decision | None, keymap: Keymap) -> str:
    """What was just decided."""
    if decision is None or decision.action == "rate":
        return ""
    candidate = decision.candidate
    parts = [f"{_DONE[decision.action]}: 《{candidate.theme}》 {_first_line(candidate.text)}"]
    if keymap.shown("undo"):
        parts.append(f"{keymap.shown('undo')} to undo")
    return " · ".join(parts)


def undone_line(decision: Decision | PairDecision | None, *, again: bool) -> str:
    """What undo or redo did."""
    if decision is None:
        return "Nothing to redo." if again else "Nothing to undo."
    what = (
        f"the comparison on 《{decision.left.theme}》"
        if isinstance(decision, PairDecision)
        else f"{_DONE[decision.action].lower()} 《{decision.candidate.theme}》"
    )
    return f"{'Redone' if again else 'Undone'}: {what}"


def copy_line(copy: Finding) -> str:
    """A copied run, or how much of the poem is made of pieces that are each short."""
    if copy.run:
        return f"{len(copy.run)} characters copied from {copy.other}"
    return f"{copy.ratio:.0%} pieced together from {copy.other}"


def flag_line(flag: Finding, session: CurationSession) -> str:
    """A badge: what is odd about the poem."""
    if flag.reason in _PLAIN_FLAGS:
        return _PLAIN_FLAGS[flag.reason]
    if flag.reason == "copy":
        return copy_line(flag)
    other = session.item(flag.other)
    number = f"No. {session.number(other.id)}" if other else "another"
    return f"same as {number}" if flag.ratio >= 1 else f"{flag.ratio:.0%} like {number}"


def leads_somewhere(flag: Finding) -> bool:
    """Whether a badge can be followed: to another poem, or to what is copied."""
    return flag.reason not in _PLAIN_FLAGS


def without_sources(text: str, items: Iterable[Item]) -> str:
    """A message of the server's, which may name the model it was asked for, without such names."""
    names = {name for item in items for name in (item.source, item.adapter)}
    longest_first = sorted(names, key=len, reverse=True)
    return re.sub(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])", "…", text)


def unsaved_line(num_waiting: int, problem: str | None) -> str:
    """The banner while the disk refuses."""
    if not num_waiting:
        return ""
    what = "1 decision is" if num_waiting == 1 else f"{num_waiting} decisions are"
    return f"{what} not saved yet ({problem}). Kept in memory; trying again."


def _duration(minutes: float) -> str:
    if minutes < 1:
        return "under a minute"
    if minutes < 2 * _MINUTES_PER_HOUR:
        return f"{minutes:.0f} min"
    return f"{minutes / _MINUTES_PER_HOUR:.1f} h"


def _first_line(text: str) -> str:
    line = next((line.strip() for line in text.split("\n") if line.strip()), "")
    return line if len(line) <= 12 else f"{line[:12]}…"


Change = Literal["same", "deleted", "inserted"]


class Piece(NamedTuple):
    """A stretch of characters that met one fate."""

    change: Change
    text: str


def difference(original: str, edited: str) -> list[Piece]:
    """The shortest way from one text to the other, in reading order.

    Without the inserted pieces it spells the original, without the deleted ones the edited text.
    """
    pieces: list[Piece] = []
    deleted = inserted = ""
    for step in Levenshtein.opcodes(original, edited):
        old, new = original[step.src_start : step.src_end], edited[step.dest_start : step.dest_end]
        if step.tag == "equal":
            pieces += [*_changed(deleted, inserted), Piece("same", old)]
            deleted = inserted = ""
        else:
            deleted, inserted = deleted + old, inserted + new
    return [*pieces, *_changed(deleted, inserted)]


def _changed(deleted: str, inserted: str) -> list[Piece]:
    """One change reads best in one piece: what went, then what came."""
    pieces = [Piece("deleted", deleted), Piece("inserted", inserted)]
    return [piece for piece in pieces if piece.text]
