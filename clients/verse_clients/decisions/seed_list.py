"""The original project's lists of poems, read and written.

Three shapes are about: a flat list of objects with `image` (the theme), `response` (the poem) and
flags; a list of lists of `[image, response]`; and an object of poems by theme. The flat one is also
what is written, as its own tools expect it. In it, an edited poem holds the edited text alone.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from verse.records import Decision
from verse.verdicts import VerdictError, read_verdict
from verse_clients.decisions import SourceError


class SeedPoem(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the flat list."""

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


_ENCODER = msgspec.json.Encoder()


def decode(content: bytes, path: Path) -> list[SeedPoem] | None:
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


def encode(decisions: Iterable[Decision]) -> bytes:
    """Write decided poems as the flat list; themes and poems are numbered as they come."""
    poems = msgspec.to_builtins(list(_numbered(list(decisions))))
    return msgspec.json.format(_ENCODER.encode(poems), indent=4) + b"\n"


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


def _numbered(decisions: Sequence[Decision]) -> Iterator[SeedPoem]:
    outer: dict[str, int] = {}
    inner: dict[str, int] = defaultdict(int)
    for number, decision in enumerate(decisions):
        candidate = decision.candidate
        yield SeedPoem(
            id=number,
            adaptor=candidate.adapter or "",
            outer_idx=outer.setdefault(candidate.theme, len(outer)),
            inner_idx=inner[candidate.theme],
            image=candidate.theme,
            response=candidate.text if decision.text is None else decision.text,
            accepted=decision.action in ("accept", "edit"),
            edited=decision.action == "edit",
            deleted=decision.action == "reject",
        )
        inner[candidate.theme] += 1
