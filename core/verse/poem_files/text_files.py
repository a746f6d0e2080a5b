"""Plain text and Markdown as sources of poems.

Where one poem ends and the next begins:

1. A rule, a line of three or more of `-`, `*` or `_`, parts poems; so does a heading (`# 河`).
2. In a file with neither, two or more blank lines do. A single one parts stanzas.

What a poem is called, and so its theme:

1. Its heading, `# 河` or a first line `《河》`; or `title:` in the front matter of a file.
2. In a file of several poems that all begin so: a first line standing alone above a blank line.
3. Else the file's name. A first line that repeats it is a title, too.

The front matter is read for a verdict like a row of JSON (`verse.verdicts`).

A heading with nothing under it, above deeper ones, is the title of a book and is passed over.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from verse.poem_files.pieces import Draft, Found, Refused, piece_of
from verse.verdicts import Reading, VerdictError, read_verdict

_RULE = re.compile(r"\s*([-*_])(\s*\1){2,}\s*")
_HEADING = re.compile(r"(?P<level>#{1,6})\s+(?P<title>.*?)\s*#*\s*")
_BRACKETED = re.compile(r"\s*《(?P<title>[^》]+)》\s*")
_FRONT_MATTER = re.compile(r"---[ \t]*\n((?:[\w-]+[ \t]*:.*\n|[ \t-].*\n)*)---[ \t]*(?:\n|$)")
_FRONT_TITLE = re.compile(r"^title[ \t]*:[ \t]*(['\"]?)(?P<title>.+?)\1[ \t]*$", re.MULTILINE)
_FRONT_KEY = re.compile(r"^([\w-]+)[ \t]*:[ \t]*(?:['\"]?)(.+?)(?:['\"]?)[ \t]*$", re.MULTILINE)
_MARKDOWN_SUFFIXES = (".md", ".markdown")


class _Piece(msgspec.Struct, frozen=True, kw_only=True):
    """The lines of one poem; its title is still among them unless it had a heading."""

    line: int
    """Of the first of them that is not blank, or of the heading; counted from 1."""
    level: int = 0
    """Of the heading; 0 without one."""
    title: str = ""
    lines: tuple[str, ...]

    @property
    def is_blank(self) -> bool:
        return not any(line.strip() for line in self.lines)


def read_text(text: str, path: Path) -> list[Found]:
    """What a file of plain text or Markdown holds."""
    kind = "poems in Markdown" if path.suffix.lower() in _MARKDOWN_SUFFIXES else "poems in text"
    matter = _FRONT_MATTER.match(text)
    head = matter[0] if matter else ""
    try:
        reading = read_verdict(msgspec.json.encode(dict(_FRONT_KEY.findall(head))))
    except VerdictError as error:
        return [Refused(path=path, line=1, problem=str(error))]
    title = _FRONT_TITLE.search(head)
    return _read_body(
        text[len(head) :].split("\n"),
        first_line=head.count("\n") + 1,
        draft=Draft(kind=kind, theme=title["title"] if title else path.stem),
        path=path,
        reading=reading,
    )


def _read_body(
    lines: Sequence[str], *, first_line: int, draft: Draft, path: Path, reading: Reading
) -> list[Found]:
    pieces = _without_book_titles(list(_pieces(lines, first_line)))
    pieces = [_with_plain_title(piece, draft.theme) for piece in pieces]
    if len(pieces) > 1 and all(piece.title or _stands_alone(piece) for piece in pieces):
        pieces = [_with_first_line_as_title(piece) for piece in pieces]
    return [_found(piece, draft, path, reading) for piece in pieces]


def _pieces(lines: Sequence[str], first_line: int) -> Iterator[_Piece]:
    is_marked = any(_RULE.fullmatch(line) or _HEADING.fullmatch(line) for line in lines)
    split = _by_marks if is_marked else _by_blank_lines
    return (piece for piece in split(lines, first_line) if piece.level or not piece.is_blank)


def _by_marks(lines: Sequence[str], first_line: int) -> Iterator[_Piece]:
    start, level, title = first_line, 0, ""
    held: list[str] = []
    for number, line in enumerate(lines, start=first_line):
        heading = _HEADING.fullmatch(line)
        if heading or _RULE.fullmatch(line):
            yield _piece(held, start, level, title)
            held, start = [], number if heading else number + 1
            level, title = (len(heading["level"]), heading["title"]) if heading else (0, "")
        else:
            held.append(line)
    yield _piece(held, start, level, title)


def _by_blank_lines(lines: Sequence[str], first_line: int) -> Iterator[_Piece]:
    start, held, num_blank = first_line, list[str](), 0
    for number, line in enumerate(lines, start=first_line):
        if line.strip() and num_blank >= 2:
            yield _piece(held, start, 0, "")
            held, start = [], number
        num_blank = 0 if line.strip() else num_blank + 1
        held.append(line)
    yield _piece(held, start, 0, "")


def _piece(lines: Sequence[str], line: int, level: int, title: str) -> _Piece:
    num_blank = next((i for i, text in enumerate(lines) if text.strip()), 0)
    return _Piece(
        line=line if level else line + num_blank,
        level=level,
        title=title,
        lines=tuple(lines[num_blank:]),
    )


def _without_book_titles(pieces: Sequence[_Piece]) -> list[_Piece]:
    following = [*(piece.level for piece in pieces[1:]), 0]
    return [
        piece
        for piece, next_level in zip(pieces, following, strict=True)
        if not (piece.level and piece.is_blank and next_level > piece.level)
    ]


def _stands_alone(piece: _Piece) -> bool:
    """Whether the first line is parted from the rest by a blank one."""
    lines = piece.lines
    return len(lines) > 2 and not lines[1].strip() and any(line.strip() for line in lines[2:])


def _with_first_line_as_title(piece: _Piece) -> _Piece:
    if piece.title:
        return piece
    return msgspec.structs.replace(piece, title=piece.lines[0].strip(), lines=piece.lines[1:])


def _with_plain_title(piece: _Piece, name: str) -> _Piece:
    """Take a first line `《河》`, or one that is the file's name, for the title it is."""
    if piece.title or piece.is_blank:
        return piece
    bracketed = _BRACKETED.fullmatch(piece.lines[0])
    if bracketed:
        return msgspec.structs.replace(piece, title=bracketed["title"], lines=piece.lines[1:])
    if piece.lines[0].strip() == name and any(line.strip() for line in piece.lines[1:]):
        return _with_first_line_as_title(piece)
    return piece


def _found(piece: _Piece, draft: Draft, path: Path, reading: Reading) -> Found:
    """A poem; what the draft calls it holds where its own lines do not."""
    if piece.is_blank:
        problem = "there is a title and no poem under it"
        return Refused(path=path, line=piece.line, problem=problem, fault="empty")
    kind = draft.kind + ("" if piece.title else " named after their file")
    draft = msgspec.structs.replace(
        draft, kind=kind, theme=piece.title or draft.theme, text="\n".join(piece.lines)
    )
    return piece_of(draft, path, piece.line, reading)
