"""Web pages as text, read by lxml's HTML parser; and paragraphs, which Word's documents have, too.

Word and web pages know two ways to break a line: a new paragraph, and a break inside of one. Poets
use both. Where a paragraph holds several lines it is a stanza, and blank lines part it from its
neighbours; where each holds one, a paragraph is a line and an empty one the gap between stanzas.

Line ends of the source are blanks, as in a browser, except that none is set between two Chinese
characters. What frames a page (navigation, head and foot, forms, scripts) is passed over.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from verse.poem_files.reading import ContentError, checked_encoding, decode

if TYPE_CHECKING:
    from lxml.etree import _Element  # pyright: ignore[reportPrivateUsage]

RULE = "---"
_MAX_TITLE_CHARACTERS = 30
_MAX_LEVEL = 6
_MAX_BYTES = 32 << 20
_FRAME = "head nav header footer aside form button select textarea figcaption sup"
_NO_TEXT = "script style template noscript svg math canvas video audio iframe object rt rp"
_SKIPPED = frozenset((_FRAME + " " + _NO_TEXT).split())
_TEXT_BLOCKS = (
    "address article blockquote body center div main p pre section details summary figure"
)
_LISTS = "dd dl dt fieldset li ol ul table tbody td tfoot th thead tr"
_BLOCKS = frozenset((_TEXT_BLOCKS + " " + _LISTS).split())
_HEADING = re.compile(r"h([1-6])")
_XML_DECLARATION = re.compile(r"\A\s*<\?xml[^>]*\?>")
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w:.-]+)""", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"""\A\s*<\?xml[^>]{0,100}?encoding\s*=\s*["']([\w:.-]+)""")
_MARK = re.compile(
    r"\s*(?:<\?xml[^>]*\?>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html)\b",
    re.IGNORECASE | re.DOTALL,
)
_CUT_OFF = "ERR_RESOURCE_LIMIT"
"""What lxml reports where it leaves a part of the page away."""
_HEAD_BYTES = 2048
_ASCII_BLANKS = re.compile(r"[ \t\n\r\f]+")
_HAN = r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff\u2014\u2018-\u201d\u2026]"
_BLANK_IN_HAN = re.compile(rf"(?<={_HAN})[ \t\r\f]*\n[ \t\n\r\f]*(?={_HAN})")


class Paragraph(msgspec.Struct, frozen=True, kw_only=True):
    """A paragraph of a document; empty ones count."""

    text: str = ""
    """Breaks inside of it are `\\n`."""
    level: int = 0
    """Of a heading, 1 to 6; 0 for what is none."""
    is_rule: bool = False
    """A line across, or the end of a page that the author put there."""
    stands_out: bool = False
    """Bold or in the middle, as titles are where nobody uses styles for headings."""

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing to read in it."""
        return not self.text.strip() and not self.is_rule


def as_text(paragraphs: Iterable[Paragraph]) -> str:
    """The paragraphs as lines: headings with `#`, rules as `---`."""
    return "\n".join(_lines(_with_headings(list(paragraphs)))) + "\n"


def _lines(paragraphs: Iterable[Paragraph]) -> Iterator[str]:
    was_stanza, was_text = False, False
    for paragraph in paragraphs:
        lines = paragraph.text.strip("\n").split("\n")
        is_text = not (paragraph.is_blank or paragraph.level or paragraph.is_rule)
        is_stanza = is_text and len(lines) > 1
        if was_text and is_text and (was_stanza or is_stanza):
            yield ""
        yield from _marked(paragraph, lines)
        was_stanza, was_text = is_stanza, is_text


def _marked(paragraph: Paragraph, lines: Sequence[str]) -> Sequence[str]:
    if paragraph.is_rule:
        return [RULE]
    if paragraph.level and not paragraph.is_blank:
        title = " ".join(line.strip() for line in lines)
        return [f"{'#' * min(paragraph.level, _MAX_LEVEL)} {title}"]
    return lines


def _with_headings(paragraphs: Sequence[Paragraph]) -> Sequence[Paragraph]:
    """Take what stands out for headings, in a document that has none."""
    text = [paragraph for paragraph in paragraphs if not paragraph.is_blank]
    num_out = sum(_could_be_title(paragraph) for paragraph in text)
    if not num_out or 2 * num_out > len(text) or any(paragraph.level for paragraph in text):
        return paragraphs
    before = [Paragraph(), *paragraphs[:-1]]
    return [
        msgspec.structs.replace(paragraph, level=1)
        if _could_be_title(paragraph) and not _could_be_title(previous)
        else paragraph
        for previous, paragraph in zip(before, paragraphs, strict=True)
    ]


def _could_be_title(paragraph: Paragraph) -> bool:
    """A name below a title often stands out, too; it is no second title."""
    text = paragraph.text.strip()
    is_short = 0 < len(text) <= _MAX_TITLE_CHARACTERS and "\n" not in text
    return paragraph.stands_out and is_short and not paragraph.is_rule


def looks_like_html(text: str) -> bool:
    """Whether a text begins as a page does, whatever the file is called."""
    return _MARK.match(text) is not None


def html_text(content: bytes, encoding: str | None = None) -> str:
    """The text of a page, its headings and rules marked.

    Args:
        content: All of the file.
        encoding: What the user says it is; None to take what the page says, or find out.

    Raises:
        ContentError: it is too large, or in no encoding that can be told.
    """
    root = _parsed(content, encoding)
    return as_text(_paragraphs(root))


def html_title(content: bytes, encoding: str | None = None) -> str:
    """What stands in the page's `<title>`; empty if nothing.

    Raises:
        ContentError: as `html_text`.
    """
    return " ".join((_parsed(content, encoding).findtext(".//title") or "").split())


def declared_encoding(content: bytes) -> str | None:
    """What the page says of its encoding, if that is one Python knows; GB2312 means GB18030."""
    head = content[:_HEAD_BYTES]
    said = _CHARSET.search(head) or _XML_ENCODING.search(head)
    if said is None:
        return None
    name = said[1].decode("ascii", "replace").lower()
    try:
        known = checked_encoding("gb18030" if name in ("gb2312", "gbk") else name)
    except ContentError:
        return None
    return None if known.startswith("utf") else known


def _parsed(content: bytes, encoding: str | None) -> "_Element":
    if len(content) > _MAX_BYTES:
        raise ContentError(f"it has {len(content) >> 20} MB; no page of poems is so large")
    from lxml import etree
    from lxml.html import HTMLParser

    text = _XML_DECLARATION.sub("", _decoded(content, encoding))
    parser = HTMLParser(
        no_network=True, huge_tree=False, remove_comments=True, remove_pis=True, encoding="utf-8"
    )
    try:
        root = etree.fromstring(text.encode(), parser)
    except (etree.LxmlError, ValueError) as error:
        raise ContentError("there is no page in it") from error
    if root is None:
        raise ContentError("there is no page in it")
    if any(entry.type_name == _CUT_OFF for entry in parser.error_log):
        raise ContentError("its elements are nested too deep; copy the poems into a text file")
    return root


def _decoded(content: bytes, encoding: str | None) -> str:
    declared = encoding or declared_encoding(content)
    try:
        return decode(content, declared).text
    except ContentError:
        if encoding:
            raise
        return decode(content).text


def _paragraphs(root: "_Element") -> Iterator[Paragraph]:
    gathered = _Gathered()
    gathered.walk(root)
    gathered.end_block()
    return iter(gathered.paragraphs)


class _Gathered:
    """Paragraphs of a page on the way through its tree."""

    def __init__(self) -> None:
        self.paragraphs: list[Paragraph] = []
        self._text: list[str] = []
        self._has_break = False

    def walk(self, element: "_Element") -> None:
        # Elements nest 256 deep at most: deeper ones are no elements to the parser.
        tag = element.tag
        if tag in _SKIPPED:
            return
        if tag == "br":
            self._text.append("\v")
            self._has_break = True
        elif tag == "hr":
            self.end_block()
            self.paragraphs.append(Paragraph(is_rule=True))
        else:
            self._walk_into(element, tag)

    def _walk_into(self, element: "_Element", tag: str) -> None:
        heading = _HEADING.fullmatch(tag)
        is_block = heading is not None or tag in _BLOCKS
        if is_block:
            self.end_block()
        self._add(element.text, is_pre=tag == "pre")
        for child in element:
            self.walk(child)
            self._add(child.tail, is_pre=tag == "pre")
        if is_block:
            self.end_block(level=int(heading[1]) if heading else 0, may_be_empty=tag == "p")

    def _add(self, text: str | None, *, is_pre: bool) -> None:
        if text:
            self._text.append(text.replace("\n", "\v") if is_pre else text)

    def end_block(self, *, level: int = 0, may_be_empty: bool = False) -> None:
        """Make a paragraph of what has come since the last one."""
        lines = [_collapsed(line) for line in "".join(self._text).split("\v")]
        is_blank = not any(line.strip() for line in lines)
        if not is_blank or self._has_break or may_be_empty:
            text = "" if is_blank else "\n".join(lines).rstrip("\n")
            self.paragraphs.append(Paragraph(text=text, level=0 if is_blank else level))
        self._text, self._has_break = [], False


def _collapsed(line: str) -> str:
    """Blanks as a browser shows them; full-width ones and those that do not break stay."""
    line = _BLANK_IN_HAN.sub("", line)
    return _ASCII_BLANKS.sub(" ", line).strip(" ").replace("\u00a0", " ").rstrip()
