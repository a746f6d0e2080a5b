"""The lists that the original project's window edits, written with what was decided.

[{"image": ..., "response": ..., flags}, ...]    flat: every row comes back, with its own fields, in
                                                 its place; flags and text say what was decided
[[[theme, poem], ...], ...]                      nested, without flags: an edited poem is changed, a
                                                 rejected one leaves a blank pair or nothing

What was decided about poems of other files stands behind the rows.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from verse.poem_files import read_content
from verse.poem_files.candidates import candidate_of
from verse.records import Decision
from verse.replay import final_text

_DECIDED = ("accept", "edit", "reject")
_INDENT = re.compile(rb"\A\s*\[\r?\n( +)\S")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLANK = ["", ""]
_PAIRS = msgspec.json.Decoder(list[list[tuple[str, str]]])


class SeedPoem(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the flat list; an edited poem holds the edited text alone."""

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


def seed_list(decisions: Iterable[Decision], sources: Sequence[bytes] = ()) -> bytes:
    """Write lists back with what was decided.

    Args:
        decisions: One for each poem.
        sources: What the lists' files held. Several become one: nested if all are, else flat.
            Without any, the list is made of the decisions alone, themes and poems numbered as they
            come.
    """
    decided = {d.candidate.id: d for d in decisions if d.action in _DECIDED}
    match = _INDENT.match(sources[0]) if sources else None
    is_nested = bool(sources) and all(map(_is_nested, sources))
    rows = _nested(sources, decided) if is_nested else _flat(sources, decided)
    indent = len(match[1]) if match else 4
    return json.dumps(rows, ensure_ascii=False, indent=indent).encode()


def is_original_list(content: bytes) -> bool:
    """Whether a file holds one of the two lists."""
    return _is_nested(content) or _is_flat(content)


def _is_flat(content: bytes) -> bool:
    try:
        content = content.removeprefix(_BYTE_ORDER_MARK)
        rows = msgspec.json.decode(content, type=list[dict[str, msgspec.Raw]])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return bool(rows) and all({"image", "response"} <= row.keys() for row in rows)


def _is_nested(content: bytes) -> bool:
    try:
        return any(_PAIRS.decode(content))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def _ids(source: bytes) -> list[str]:
    """The candidate of each row, blank ones left out."""
    candidates = map(candidate_of, read_content(source, Path("list.json")))
    return [candidate.id for candidate in candidates if candidate is not None]


def _flat(sources: Sequence[bytes], decided: Mapping[str, Decision]) -> list[dict[str, Any]]:
    rows = [row for source in sources for row in _flat_rows(source)]
    ids = [id_ for source in sources for id_ in _ids(source)]
    for row, id_ in zip(rows, ids, strict=True):
        if decision := decided.get(id_):
            row.update(_said(decision))
    others = [decision for id_, decision in decided.items() if id_ not in set(ids)]
    return [*rows, *_numbered(others, rows)]


def _flat_rows(source: bytes) -> list[dict[str, Any]]:
    if not _is_nested(source):
        return json.loads(source.removeprefix(_BYTE_ORDER_MARK))
    return [
        msgspec.to_builtins(SeedPoem(outer_idx=outer, inner_idx=inner, image=theme, response=text))
        for outer, pairs in enumerate(_PAIRS.decode(source))
        for inner, (theme, text) in enumerate(pairs)
        if theme.strip() or text.strip()
    ]


def _said(decision: Decision) -> dict[str, Any]:
    return {
        "response": final_text(decision),
        "accepted": decision.action in ("accept", "edit"),
        "edited": decision.action == "edit",
        "deleted": decision.action == "reject",
    }


def _numbered(
    decisions: Sequence[Decision], before: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """New rows, numbered on behind those that are there."""
    first = 1 + max((_number(row, "id") for row in before), default=-1)
    outer: dict[str, int] = {}
    outer_first = 1 + max((_number(row, "outer_idx") for row in before), default=-1)
    inner: dict[str, int] = defaultdict(int)
    for number, decision in enumerate(decisions, start=first):
        candidate = decision.candidate
        poem = SeedPoem(
            id=number,
            adaptor=candidate.adapter or "",
            outer_idx=outer.setdefault(candidate.theme, outer_first + len(outer)),
            inner_idx=inner[candidate.theme],
            image=candidate.theme,
            response=candidate.text,
        )
        inner[candidate.theme] += 1
        yield msgspec.to_builtins(poem) | _said(decision)


def _number(row: Mapping[str, Any], key: str) -> int:
    return row[key] if isinstance(row.get(key), int) else -1


def _nested(sources: Sequence[bytes], decided: Mapping[str, Decision]) -> list[list[list[str]]]:
    lists = [[list(pair) for pair in inner] for s in sources for inner in _PAIRS.decode(s)]
    ids = [id_ for source in sources for id_ in _ids(source)]
    filled = [pair for inner in lists for pair in inner if any(part.strip() for part in pair)]
    for pair, id_ in zip(filled, ids, strict=True):
        if decision := decided.get(id_):
            pair[:] = _BLANK if decision.action == "reject" else [pair[0], final_text(decision)]
    for inner in lists:
        while inner and inner[-1] == _BLANK:
            inner.pop()
    themes: dict[str, list[list[str]]] = defaultdict(list)
    for id_, decision in decided.items():
        if id_ not in set(ids) and decision.action != "reject":
            theme = decision.candidate.theme
            themes[theme].append([theme, final_text(decision)])
    return [*lists, *themes.values()]


def lists_among(paths: Iterable[Path]) -> list[bytes]:
    """What those of the files hold that are such lists; files that are gone are passed over."""
    contents: list[bytes] = []
    for path in paths:
        with suppress(OSError):
            contents.append(path.read_bytes())
    return [content for content in contents if is_original_list(content)]
