"""The files that poems come from, and what they say was decided about them.

Any file of poems will do (`verse.poem_files`). What stands in a row beside the poem, the judges'
score and rank, is kept.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from verse.decision_journal import JournalError, read_journal
from verse.model_spelling import BASE
from verse.poem_files import Found, PoemFileError, Refused, Taken, read_file
from verse.poem_files.candidates import candidate_of, is_journal
from verse.records import Candidate, Decision, PairDecision
from verse.replay import IMPORTED, Replay
from verse.verdicts import Verdict
from verse_clients.decisions import SourceError

Past = Literal["accept", "edit", "reject"]
_PAST: Mapping[Verdict | None, Past] = {
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
    edited: str | None = None
    """The text that its file says it was given, if that is not the candidate's."""
    was_kept: bool = False
    """Whether its file holds what was kept, with no room for a word about it."""

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


class _Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What a judge's file says beside the candidate; a plain candidate says nothing."""

    score: float | None = None
    rank: int | None = None
    disagreement: float | None = None


_KINDS = "poems, as verse generate and verse judge write them, or of your own"


def read_items(paths: Sequence[Path], *, with_empty: bool = False) -> list[Item]:
    """Read all poems of all files, in order; those without text only if they are asked for.

    Raises:
        SourceError: a file is missing, empty, or holds something else; the text says where.
    """
    items: list[Item] = []
    for path in paths:
        items.extend(_read(path, len(items) + 1, with_empty=with_empty))
    return items


def past_decisions(items: Iterable[Item], now: datetime) -> list[Decision]:
    """What the files already say was decided, as entries of a journal."""
    return [
        Decision(
            action=item.past,
            candidate=item.candidate,
            text=(item.edited or item.candidate.text) if item.past == "edit" else None,
            blind=False,
            time=now,
            session=IMPORTED,
        )
        for item in items
        if item.past is not None
    ]


def _read(path: Path, first: int, *, with_empty: bool) -> list[Item]:
    pieces = read_pieces(path)
    items = [_item(path, place, piece, first) for place, piece in enumerate(pieces, 1)]
    poems = [item for item in items if item and (with_empty or item.candidate.text.strip())]
    if not poems:
        raise SourceError(f"{path} holds no poem; it should hold {_KINDS}.")
    return poems


def read_pieces(path: Path) -> list[Found]:
    """All that a file of poems holds; a last line that was cut off is passed over.

    Raises:
        SourceError: it is missing or empty, or a piece of it is no poem; the text says where.
    """
    try:
        pieces = read_file(path)
    except PoemFileError as error:
        raise SourceError(str(error)) from error
    for place, piece in enumerate(pieces, 1):
        if isinstance(piece, Refused) and piece.fault == "other_format":
            raise SourceError(f"{path}:{piece.line}: poem {place}: {piece.problem}.")
    if not path.read_bytes().strip():
        raise SourceError(f"{path} is empty; it should hold {_KINDS}.")
    return pieces


def _item(path: Path, place: int, piece: Found, first: int) -> Item | None:
    try:
        candidate = candidate_of(piece)
        judged = _judged(piece)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}:{piece.line}: poem {place}: {error}.") from error
    if candidate is None or isinstance(piece, Refused):
        return None
    return Item(
        candidate=candidate,
        number=first + place - 1,
        score=judged.score,
        rank=judged.rank,
        disagreement=judged.disagreement,
        past=_PAST.get(piece.verdict),
        edited=piece.poem.text if piece.poem and piece.kind == "decisions" else None,
        was_kept=isinstance(piece, Taken) and not piece.verdict and piece.poem.origin != "poet",
    )


def _judged(piece: Found) -> _Judged:
    """What a judge says beside the candidate; nothing, if none does."""
    if isinstance(piece, Refused) or not piece.row.startswith(b"{"):
        return _Judged()
    return msgspec.json.decode(piece.row, type=_Judged)


_NO_TIME = datetime.fromtimestamp(0, UTC)
"""The list does not say when; the time of reading would make every export another one."""


def read_decisions(paths: Iterable[Path]) -> list[Decision | PairDecision]:
    """What stands in each file, one file after the other; the last word on a poem counts.

    Args:
        paths: Journals, and files whose rows say what was decided or hold what was kept.

    Raises:
        JournalError: a file is missing, or holds no decisions.
        SourceError: a list holds no poems.
    """
    return [entry for path in paths for entry in _read_decisions(path)]


def _read_decisions(path: Path) -> list[Decision | PairDecision]:
    if _is_journal(path):
        # Undo counts places within its own file, so each file is replayed by itself.
        return list(Replay(read_journal(path)).in_effect())
    items = read_items([path])
    past = past_decisions([_accepted(item) if item.was_kept else item for item in items], _NO_TIME)
    if not past:
        raise JournalError(
            f"{path} holds poems about which nothing was decided yet; decide with `verse curate`."
        )
    return list(past)


def _accepted(item: Item) -> Item:
    return msgspec.structs.replace(item, past="accept")


def _is_journal(path: Path) -> bool:
    try:
        return is_journal(path.read_bytes())
    except OSError as error:
        raise JournalError(f"{path} cannot be read: {error.strerror}.") from error
