"""The files that poems come from: told apart by what is in them, never by their names.

JSON Lines of candidates     verse generate
the same, or a JSON list,    verse judge: each row is a candidate, or holds one under
with scores and ranks        `candidate`, beside `score`, `rank`, `disagreement`
JSON Lines of poems          the poet's own
the original project's       a flat list of objects with `image` (the theme), `response` (the
                             poem) and flags; a list of lists of `[image, response]`; or an
                             object of poems by theme

Fields that are not known are passed over. What a row says of its acceptance is read by
`verse.verdicts`, as everywhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from verse import jsonl
from verse.model_spelling import BASE
from verse.records import Candidate, Decision, PairDecision
from verse.replay import IMPORTED, Replay
from verse.verdicts import Verdict, VerdictError, list_verdict, read_verdict
from verse_clients.decisions import JournalError, SourceError
from verse_clients.decisions.journal import read_journal

Past = Literal["accept", "edit", "reject"]
_PAST: Mapping[Verdict | None, Past] = {
    "accepted": "accept",
    "edited": "edit",
    "rejected": "reject",
}
"""What a verdict in a file is as a decision; all others leave it to the poet."""


class SeedPoem(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the original project's flat list; an edited poem holds the edited text alone."""

    id: int = 0
    adaptor: str = ""
    outer_idx: int = 0
    """Number of the theme, from 0."""
    inner_idx: int = 0
    """Number within the theme, from 0."""
    image: str
    response: str
    accepted: bool = False
    edited: bool = False
    deleted: bool = False


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


class _Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What a judge's file says beside the candidate; a plain candidate says nothing."""

    candidate: msgspec.Raw = msgspec.Raw()
    score: float | None = None
    rank: int | None = None
    disagreement: float | None = None


class _Wrapped(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is one object around its rows."""

    poems: list[msgspec.Raw] = []
    ranked: list[msgspec.Raw] = []
    candidates: list[msgspec.Raw] = []


_ROW = msgspec.json.Decoder(_Judged)
_CANDIDATE = msgspec.json.Decoder(Candidate)
_KINDS = "poems of verse generate, verse judge or the original project's list"


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
            text=item.candidate.text if item.past == "edit" else None,
            blind=False,
            time=now,
            session=IMPORTED,
        )
        for item in items
        if item.past is not None
    ]


def _read(path: Path, first: int, *, with_empty: bool) -> list[Item]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}.") from error
    if not content.strip():
        raise SourceError(f"{path} is empty; it should hold {_KINDS}.")
    seeds = _seed_poems(content, path)
    if seeds is not None:
        items = [_seed_item(poem, number) for number, poem in enumerate(seeds, first)]
    else:
        rows = _list_rows(content) or _line_rows(path)
        items = [_item(path, place, row, first) for place, row in enumerate(rows, 1)]
    poems = [item for item in items if with_empty or item.candidate.text.strip()]
    if not poems:
        raise SourceError(f"{path} holds no poem; it should hold {_KINDS}.")
    return poems


def _seed_poems(content: bytes, path: Path) -> list[SeedPoem] | None:
    """The poems of any of the three shapes; None if it is none of them.

    Raises:
        SourceError: what a poem says of its acceptance cannot be read for certain.
    """
    for read in (_flat, _pairs, _themes):
        try:
            return read(content)
        except VerdictError as error:
            raise SourceError(f"{path}: {error}.") from error
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return None


def _flat(content: bytes) -> list[SeedPoem]:
    return [_entry(row) for row in msgspec.json.decode(content, type=list[msgspec.Raw])]


def _entry(row: msgspec.Raw) -> SeedPoem:
    """An entry whose flags say what all of the row says of its acceptance."""
    poem = msgspec.json.decode(row, type=SeedPoem, strict=False)
    verdict = read_verdict(row).verdict
    return msgspec.structs.replace(
        poem,
        accepted=verdict in ("accepted", "edited"),
        edited=verdict == "edited",
        deleted=verdict == "rejected",
    )


def _pairs(content: bytes) -> list[SeedPoem]:
    return _from_pairs(msgspec.json.decode(content, type=list[list[tuple[str, str]]]))


def _themes(content: bytes) -> list[SeedPoem]:
    themes = msgspec.json.decode(content, type=dict[str, list[str]])
    return _from_pairs([[(theme, poem) for poem in poems] for theme, poems in themes.items()])


def _from_pairs(themes: list[list[tuple[str, str]]]) -> list[SeedPoem]:
    return [
        SeedPoem(outer_idx=outer, inner_idx=inner, image=image, response=response)
        for outer, pairs in enumerate(themes)
        for inner, (image, response) in enumerate(pairs)
    ]


def _seed_item(poem: SeedPoem, number: int) -> Item:
    candidate = Candidate(
        theme=poem.image,
        text=poem.response,
        adapter=poem.adaptor or None,
        sample=max(poem.inner_idx, 0),
    )
    verdict = list_verdict(accepted=poem.accepted, edited=poem.edited, deleted=poem.deleted)
    return Item(candidate=_with_plain_line_ends(candidate), number=number, past=_PAST.get(verdict))


def _list_rows(content: bytes) -> list[msgspec.Raw]:
    """The rows of a file that is one JSON value; none if it is not."""
    try:
        return msgspec.json.decode(content, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        wrapped = msgspec.json.decode(content, type=_Wrapped)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []
    return wrapped.poems or wrapped.ranked or wrapped.candidates


def _line_rows(path: Path) -> list[msgspec.Raw]:
    rows: list[msgspec.Raw] = []
    for number, row in jsonl.scan(path, msgspec.json.Decoder(msgspec.Raw)):
        if isinstance(row, jsonl.TornLineError):
            break  # a run that was stopped while writing: the poem before it was the last
        if isinstance(row, jsonl.JsonlError):
            raise SourceError(f"{path} holds no {_KINDS}: line {number} is not JSON.")
        rows.append(row)
    return rows


def _item(path: Path, place: int, row: msgspec.Raw, first: int) -> Item:
    try:
        judged = _ROW.decode(row)
        written = judged.candidate if bytes(judged.candidate) else row
        candidate = _CANDIDATE.decode(written)
        past = _PAST.get(read_verdict(written).verdict)
    except VerdictError as error:
        raise SourceError(f"{path}: poem {place}: {error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} holds no {_KINDS}: poem {place}: {error}.") from error
    return Item(
        candidate=_with_plain_line_ends(candidate),
        number=first + place - 1,
        score=judged.score,
        rank=judged.rank,
        disagreement=judged.disagreement,
        past=past,
    )


def _with_plain_line_ends(candidate: Candidate) -> Candidate:
    """Windows line ends would look like changes in the editor; the id is the same either way."""
    if "\r" not in candidate.text:
        return candidate
    text = candidate.text.replace("\r\n", "\n").replace("\r", "\n")
    return msgspec.structs.replace(candidate, text=text)


_NO_TIME = datetime.fromtimestamp(0, UTC)
"""The list does not say when; the time of reading would make every export another one."""


def read_decisions(paths: Iterable[Path]) -> list[Decision | PairDecision]:
    """What stands in each file, one file after the other; the last word on a poem counts.

    Raises:
        JournalError: a file is missing, or holds no decisions.
        SourceError: a list holds no poems.
    """
    return [entry for path in paths for entry in _read_decisions(path)]


def _read_decisions(path: Path) -> list[Decision | PairDecision]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise JournalError(f"{path} cannot be read: {error.strerror}.") from error
    if not _seed_poems(content, path):
        # Undo counts places within its own file, so each file is replayed by itself.
        return list(Replay(read_journal(path)).in_effect())
    past = past_decisions(read_items([path]), _NO_TIME)
    if not past:
        raise JournalError(f"{path} is a list of poems about which nothing was decided yet.")
    return list(past)
