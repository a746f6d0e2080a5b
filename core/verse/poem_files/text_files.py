"""Plain text and Markdown as sources of poems.

Where one poem ends and the next begins:

1. A divider, a line of three or more of `-`, `*`, `_`, `※` and the like, parts poems; so does a
   heading: `# 河`, `《河》` where there are several, and `一、河`, `二、雨` counted from one.
2. In a file with none of these, two or more blank lines do. A single one parts stanzas.

What a poem is called, and so its theme:

1. Its heading, a first line `《河》` or `题目：河`; or `title:` in the front matter of a file.
2. In a file of several poems that all begin so: a first line standing alone above a blank line.
3. Else the file's name. A first line that repeats it is a title, too.

Who wrote it and when (`bylines`) stands under a title or at the end, and is no part of the poem.
The front matter, between `---` or in the first lines, is read for a verdict like a row of JSON
(`verse.verdicts`).

A heading with nothing under it, above deeper ones, is the title of a book and is passed over. Long
texts and prose are taken with a doubt, of which whoever imports is asked.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec

from verse.poem_files.bylines import (
    Bylines,
    bare_name,
    beside_title,
    is_byline,
    known_names,
    surnamed,
    take_bylines,
)
from verse.poem_files.pieces import Draft, Found, Refused, Taken, piece_of
from verse.verdicts import Reading, VerdictError, read_verdict

_DIVIDER = re.compile(r"\s*(?:([-*_=~#※＊＝～☆★◆◇○●■§◎])(\s*\1){2,}|[—─━]{4,})\s*")
_HEADING = re.compile(r"(?P<level>#{1,6})\s+(?P<title>.*?)\s*#*\s*")
_BRACKETED = re.compile(r"\s*《(?P<title>[^》]+)》(?P<rest>.{0,40})")
_NUMBERED = re.compile(
    r"\s*(?:第?(?P<number>[一二三四五六七八九十百]{1,5}|\d{1,3})[首篇]?[、.．]"
    r"|[（(](?P<in_brackets>[一二三四五六七八九十百]{1,5}|\d{1,3})[)）])"
    r"\s*(?P<title>[^。！？!?；;，,]{0,30})"
)
_TITLE_LINE = re.compile(
    r"\s*(?:题目|标题|诗题|题名|诗名|title)\s*[:：]\s*《?(?P<title>[^》]+?)》?\s*", re.IGNORECASE
)
_DEEPEST = 6
"""Level of a heading that Markdown does not know."""
_FENCED = re.compile(r"(---|\+\+\+)[ \t]*\n((?:.*\n){0,60}?)\1[ \t]*(?:\n|$)")
_FENCED_LINE = re.compile(r"[\w-]+[ \t]*[:：=].*|[ \t-].*|")
_KEY = re.compile(r"^([\w-]+)[ \t]*[:：=][ \t]*(?:['\"《]?)(.+?)(?:['\"》]?)[ \t]*$", re.MULTILINE)
_UNFENCED = re.compile(
    r"\s*(?:title|date|author|tags?|categor(?:y|ies)|status|draft|slug|layout|lang|题目|标题|诗题|"
    r"题名|作者|日期|写作日期|写作时间|创作时间|标签|分类)[ \t]*[:：].*",
    re.IGNORECASE,
)
_TITLE_KEYS = ("title", "题目", "标题", "诗题", "题名")
_AUTHOR_KEYS = ("author", "作者")
_DATE_KEYS = ("date", "日期", "写作日期", "写作时间", "创作时间")
_MARKDOWN_SUFFIXES = (".md", ".markdown")
_DIGITS = {digit: number for number, digit in enumerate("零一二三四五六七八九")}

_MAX_COVER_LINES = 2
_MAX_MARK_CHARACTERS = 200
"""Of a heading or divider; a longer line is none."""


class _Piece(msgspec.Struct, frozen=True, kw_only=True):
    """The lines of one poem; its title is still among them unless it had a heading."""

    line: int
    """Of the first of them that is not blank, or of the heading; counted from 1."""
    level: int = 0
    """Of the heading; 0 without one."""
    title: str = ""
    lines: tuple[str, ...]
    bylines: Bylines = Bylines()

    @property
    def is_blank(self) -> bool:
        return not any(line.strip() for line in self.lines)


class _Mark(msgspec.Struct, frozen=True):
    """A line that a poem begins behind: a divider of level 0, or a heading."""

    level: int = 0
    title: str = ""
    bylines: Bylines = Bylines()


def read_text(
    text: str, path: Path, *, kind: str = "", name: str = "", author: str = ""
) -> list[Found]:
    """What a file of plain text or Markdown holds, or a document that was made into such text.

    Args:
        text: With plain line ends.
        path: Of the file.
        kind: What the poems are called, in the plural; by the file's name if it is empty.
        name: Theme of what has none of its own; the file's name if it is empty.
        author: A name that is known to be one.
    """
    is_markdown = path.suffix.lower() in _MARKDOWN_SUFFIXES
    kind = kind or ("poems in Markdown" if is_markdown else "poems in text")
    head, keys = _front_matter(text)
    try:
        reading = read_verdict(msgspec.json.encode(keys))
    except VerdictError as error:
        return [Refused(path=path, line=1, problem=str(error))]
    lines, first_line = text[len(head) :].split("\n"), head.count("\n") + 1
    title = _first(keys, _TITLE_KEYS) or name or path.stem
    given = Bylines(_first(keys, _AUTHOR_KEYS), _first(keys, _DATE_KEYS))
    raw = list(_pieces(lines, first_line))
    if not raw:
        problem = "there is a title and no poem under it"
        return [Refused(path=path, line=1, problem=problem, fault="empty")]
    pieces = _titled(raw, title, {author, given.author} - {""})
    if len(pieces) > 1:
        given = Bylines(given.author)
    draft = Draft(kind=kind, theme=title)
    found = [_found(piece, draft, path, reading, given) for piece in pieces]
    return _with_preface(pieces, found)


def _front_matter(text: str) -> tuple[str, Mapping[str, str]]:
    """What stands above the poems about all of them, and its keys with their values."""
    fenced = _FENCED.match(text)
    if fenced and all(_FENCED_LINE.fullmatch(line) for line in fenced[2].split("\n")):
        return fenced[0], {key.lower(): value for key, value in _KEY.findall(fenced[2])}
    head = ""
    for line in text.splitlines(keepends=True):
        if not _UNFENCED.fullmatch(line.rstrip("\n")):
            break
        head += line
    return head, {key.lower(): value for key, value in _KEY.findall(head)}


def _first(keys: Mapping[str, str], names: Iterable[str]) -> str:
    return next((keys[name] for name in names if name in keys), "")


def _pieces(lines: Sequence[str], first_line: int) -> Iterator[_Piece]:
    marks = _marks(lines)
    split = _by_marks(lines, first_line, marks) if marks else _by_blank_lines(lines, first_line)
    return (piece for piece in split if piece.level or not piece.is_blank)


def _marks(lines: Sequence[str]) -> Mapping[int, _Mark]:
    """Dividers and headings, by the index of their lines."""
    marks: dict[int, _Mark] = {}
    for index, line in enumerate(lines):
        if len(line) > _MAX_MARK_CHARACTERS:
            continue
        if heading := _HEADING.fullmatch(line):
            marks[index] = _Mark(len(heading["level"]), _without_brackets(heading["title"]))
        elif _DIVIDER.fullmatch(line):
            marks[index] = _Mark()
    return marks | _bracketed(lines, marks) | _numbered(lines, marks)


def _bracketed(lines: Sequence[str], marks: Mapping[int, _Mark]) -> dict[int, _Mark]:
    """Lines `《河》` that begin poems: all, if a gap is above the first; else those behind one."""
    titles = {index: _bracketed_title(line) for index, line in enumerate(lines)}
    found = {index: title for index, title in titles.items() if title}
    apart = {
        index: title
        for index, title in found.items()
        if index - 1 in marks or not "".join(lines[max(0, index - 1) : index]).strip()
    }
    found = found if next(iter(found), 0) in apart else apart
    return dict(found) if len(found) > 1 else {}


def _bracketed_title(line: str) -> _Mark | None:
    """`《河》`, and `《河》 文/张三`; None if the line is another."""
    bracketed = _BRACKETED.fullmatch(line)
    bylines = beside_title(bracketed["rest"]) if bracketed else None
    return _Mark(_DEEPEST, bracketed["title"], bylines) if bracketed and bylines else None


def _numbered(lines: Sequence[str], marks: Mapping[int, _Mark]) -> dict[int, _Mark]:
    """Lines `一、河`, `二、雨` that count from one and have lines under them."""
    found: dict[int, _Mark] = {}
    for index, line in enumerate(lines):
        numbered = _NUMBERED.fullmatch(line)
        if numbered is None or index in marks:
            continue
        title = _without_brackets(numbered["title"].strip())
        number = _number(numbered["number"] or numbered["in_brackets"])
        if number != len(found) + 1 or (numbered["in_brackets"] and not title):
            return {}
        found[index] = _Mark(_DEEPEST, title)
    starts = [*found, len(lines)]
    is_list = any(
        not any(line.strip() for line in lines[start + 1 : end]) for start, end in pairwise(starts)
    )
    return {} if is_list or len(found) < 2 else found


def _number(text: str) -> int:
    """Of `12` and `十二`."""
    if text.isdecimal():
        return int(text)
    hundreds, _, rest = text.rpartition("百")
    tens, has_tens, ones = rest.rpartition("十")
    value = _DIGITS.get(ones, 0) + 10 * (_DIGITS.get(tens, 1) if has_tens else 0)
    return value + 100 * (_DIGITS.get(hundreds, 1) if hundreds else 0)


def _without_brackets(title: str) -> str:
    bracketed = _bracketed_title(title)
    return bracketed.title if bracketed else title


def _by_marks(
    lines: Sequence[str], first_line: int, marks: Mapping[int, _Mark]
) -> Iterator[_Piece]:
    start, mark = first_line, _Mark()
    held: list[str] = []
    for index, line in enumerate(lines):
        if index not in marks:
            held.append(line)
            continue
        yield _piece(held, start, mark)
        held, mark = [], marks[index]
        start = first_line + index + (0 if mark.level else 1)
    yield _piece(held, start, mark)


def _by_blank_lines(lines: Sequence[str], first_line: int) -> Iterator[_Piece]:
    start, held, num_blank = first_line, list[str](), 0
    for number, line in enumerate(lines, start=first_line):
        if line.strip() and num_blank >= 2:
            yield _piece(held, start, _Mark())
            held, start = [], number
        num_blank = 0 if line.strip() else num_blank + 1
        held.append(line)
    yield _piece(held, start, _Mark())


def _piece(lines: Sequence[str], line: int, mark: _Mark) -> _Piece:
    num_blank = next((i for i, text in enumerate(lines) if text.strip()), 0)
    return _Piece(
        line=line if mark.level else line + num_blank,
        level=mark.level,
        title=mark.title,
        lines=tuple(lines[num_blank:]),
        bylines=mark.bylines,
    )


def _titled(pieces: Sequence[_Piece], name: str, authors: Collection[str]) -> list[_Piece]:
    """The pieces, with titles and bylines taken out of their lines."""
    pieces = [_with_plain_title(piece, name) for piece in pieces]
    if len(pieces) > 1 and all(piece.title or _stands_alone(piece) for piece in pieces):
        pieces = [_with_first_line_as_title(piece) for piece in pieces]
    names = known_names((piece.lines for piece in pieces), authors)
    return _without_book_titles([_with_bylines(piece, names) for piece in pieces])


def _with_bylines(piece: _Piece, names: Collection[str]) -> _Piece:
    has_title = bool(piece.title) or piece.level > 0
    lines, bylines = take_bylines(piece.lines, names, has_title=has_title)
    return msgspec.structs.replace(piece, lines=lines, bylines=piece.bylines.filled(bylines))


def _without_book_titles(pieces: Sequence[_Piece]) -> list[_Piece]:
    """A title over titles is no poem, nor is who wrote the book."""
    following = [*(piece.level for piece in pieces[1:]), 0]
    return [
        piece
        for piece, next_level in zip(pieces, following, strict=True)
        if not (piece.level and next_level > piece.level and _is_cover(piece))
    ]


def _is_cover(piece: _Piece) -> bool:
    lines = [line for line in piece.lines if line.strip()]
    return (
        all(is_byline(line) or bare_name(line) for line in lines) and len(lines) <= _MAX_COVER_LINES
    )


def _stands_alone(piece: _Piece) -> bool:
    """Whether the first line is parted from the rest by a blank one, or by who wrote it."""
    lines = piece.lines
    num_bylines = next((i for i, line in enumerate(lines[1:]) if not is_byline(line)), 0)
    if not num_bylines and len(lines) > 2 and surnamed(lines[1]) and not lines[2].strip():
        num_bylines = 1
    rest = lines[1 + num_bylines :]
    is_parted = num_bylines > 0 or (len(rest) > 1 and not rest[0].strip())
    return is_parted and any(line.strip() for line in rest)


def _with_first_line_as_title(piece: _Piece) -> _Piece:
    if piece.title:
        return piece
    return msgspec.structs.replace(piece, title=piece.lines[0].strip(), lines=piece.lines[1:])


def _with_plain_title(piece: _Piece, name: str) -> _Piece:
    """Take a first line `《河》`, `题目：河` or one that is the file's name for the title it is."""
    if piece.title or piece.is_blank:
        return piece
    first = piece.lines[0]
    if bracketed := _bracketed_title(first):
        title, bylines = bracketed.title, bracketed.bylines
        return msgspec.structs.replace(piece, title=title, lines=piece.lines[1:], bylines=bylines)
    if titled := _TITLE_LINE.fullmatch(first):
        return msgspec.structs.replace(piece, title=titled["title"], lines=piece.lines[1:])
    if first.strip() == name and any(line.strip() for line in piece.lines[1:]):
        return _with_first_line_as_title(piece)
    return piece


def _found(piece: _Piece, draft: Draft, path: Path, reading: Reading, given: Bylines) -> Found:
    """A poem; what the draft calls it, and who is given, holds where its own lines say nothing."""
    if piece.is_blank:
        problem = "there is a title and no poem under it"
        return Refused(path=path, line=piece.line, problem=problem, fault="empty")
    is_named_after_file = not piece.title and draft.theme == path.stem
    kind = draft.kind + (" named after their file" if is_named_after_file else "")
    draft = msgspec.structs.replace(
        draft,
        kind=kind,
        theme=piece.title or draft.theme,
        text="\n".join(piece.lines),
        fields=piece.bylines.filled(given).as_fields(),
        may_be_prose=True,
    )
    return piece_of(draft, path, piece.line, reading)


def _with_preface(pieces: Sequence[_Piece], found: Sequence[Found]) -> list[Found]:
    """What stands before the first title of a collection may be no poem."""
    titles = [bool(piece.title) for piece in pieces]
    is_preface = len(titles) > 1 and not titles[0] and all(titles[1:])
    if not is_preface or not isinstance(first := found[0], Taken):
        return list(found)
    doubt = first.doubt or "it stands before the first title"
    return [msgspec.structs.replace(first, doubt=doubt), *found[1:]]
