"""Word's documents: `.docx` by python-docx, and RTF by striprtf.

Both libraries are imported when a document is read. What they are given is checked before: a
`.docx` is a zip file of XML, and both can hide far more than they look like (`archives`).
"""

import io
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

from verse.poem_files.reading import ContentError
from verse_trainer.data_set.archives import Archive
from verse_trainer.data_set.web_pages import Paragraph, as_text

if TYPE_CHECKING:
    from docx.document import Document
    from docx.oxml.text.paragraph import CT_P
    from docx.text.paragraph import Paragraph as WordParagraph
    from lxml.etree import _Element  # pyright: ignore[reportPrivateUsage]

_MAX_XML_BYTES = 32 << 20
_MAX_RTF_BYTES = 32 << 20
_OLE_MARK = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED_STREAM = "EncryptedPackage".encode("utf-16-le")
_WORD_STREAM = "WordDocument".encode("utf-16-le")
_RTF_MARK = b"{\\rtf"
_RTF_PICTURES = re.compile(rb"\\bin[0-9]")
_BODY = "word/document.xml"

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_SKIPPED = {
    *(f"{_W}{name}" for name in ("del", "moveFrom", "rt", "instrText", "delText")),
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback",
}
"""Deleted text, pinyin above the line, and what older programs are shown instead."""
_BREAKS = {f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}tab": "\t"}
_HEADING_STYLE = re.compile(r"(?:heading|标题|標題)\s*(?P<level>[1-9])?|title|题目", re.IGNORECASE)


def is_docx(archive: Archive) -> bool:
    """Whether this zip file is one of Word's."""
    return _BODY in archive


def is_rtf(content: bytes) -> bool:
    """Whether it begins like RTF."""
    return content.lstrip().startswith(_RTF_MARK)


def refuse_old_office(content: bytes) -> None:
    """Say what to do with a file of old Word, or a new one behind a password.

    Raises:
        ContentError: it is one.
    """
    if not content.startswith(_OLE_MARK):
        return
    if _ENCRYPTED_STREAM in content:
        raise ContentError(
            "it is protected by a password; open it in Word or WPS and save it without one"
        )
    if _WORD_STREAM in content:
        raise ContentError("it is a .doc of old Word; open it and save it as .docx")
    raise ContentError("it is of an old Office program; save it as .docx or as text")


def docx_text(content: bytes, archive: Archive) -> str:
    """A document's text, headings and page breaks marked; what was deleted in it stays away.

    Args:
        content: The whole file.
        archive: The same, as a zip file.

    Raises:
        ContentError: it is broken, locked or too large.
    """
    archive.check(max_bytes_each=_MAX_XML_BYTES)
    document = _opened(content)
    paragraphs = _paragraphs(document, document.element)
    return as_text(part for paragraph in paragraphs for part in _parts(paragraph))


def rtf_text(content: bytes) -> str:
    """The text of an RTF file.

    Raises:
        ContentError: it is broken or too large.
    """
    if len(content) > _MAX_RTF_BYTES:
        raise ContentError(
            f"it has {len(content) >> 20} MB, pictures most likely; save it as .docx or as text"
        )
    if _RTF_PICTURES.search(content):
        raise ContentError("it has pictures in it; save it as .docx or as text")
    from striprtf import striprtf

    to_text: Callable[[str], str] = cast("Any", striprtf).rtf_to_text  # it has no types
    try:
        text = to_text(content.decode("latin-1"))
    # It is a single loop over a regular expression, which trusts its input.
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise ContentError("the file is broken; open it in Word and save it as .docx") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _opened(content: bytes) -> "Document":
    import docx
    from docx.opc.exceptions import OpcError
    from lxml.etree import LxmlError

    try:
        return docx.Document(io.BytesIO(content))
    # A missing part is a KeyError there, a part of another kind a ValueError.
    except (OpcError, LxmlError, KeyError, ValueError, AttributeError) as error:
        raise ContentError("the document is broken; open it in Word and save it again") from error


def _paragraphs(document: "Document", element: "_Element") -> Iterator["WordParagraph"]:
    """All that are under an element, in their order, those of tables and text boxes among them."""
    from docx.text.paragraph import Paragraph as WordParagraph

    for child in element:
        if child.tag in _SKIPPED:
            continue
        if child.tag == f"{_W}p":
            yield WordParagraph(cast("CT_P", child), document)
        yield from _paragraphs(document, child)


def _parts(word: "WordParagraph") -> Iterator[Paragraph]:
    """A paragraph; several where a page ends inside of it."""
    element = word.paragraph_format.element
    texts = "".join(_characters(element)).split("\f")
    level, stands_out = _level(word), _stands_out(word)
    if element.find(f"{_W}pPr/{_W}pageBreakBefore") is not None:
        yield Paragraph(is_rule=True)
    for number, text in enumerate(texts):
        if number:
            yield Paragraph(is_rule=True)
        if text.strip() or len(texts) == 1:
            yield Paragraph(text=text, level=level if text.strip() else 0, stands_out=stands_out)


def _characters(element: "_Element") -> Iterator[str]:
    for child in element:
        if child.tag in _SKIPPED or child.tag == f"{_W}p":
            continue
        if child.tag == f"{_W}t":
            yield child.text or ""
        elif child.tag == f"{_W}br" and child.get(f"{_W}type") == "page":
            yield "\f"
        elif child.tag in _BREAKS:
            yield _BREAKS[child.tag]
        else:
            yield from _characters(child)


def _level(word: "WordParagraph") -> int:
    """Of a heading, by its style: the title of the whole is above the first level."""
    style = word.style.name if word.style is not None else None
    heading = _HEADING_STYLE.match(style or "")
    if heading is None:
        return 0
    return int(heading["level"] or 0) + 1


def _stands_out(word: "WordParagraph") -> bool:
    from docx.enum.text import WD_ALIGN_PARAGRAPH

    runs = [run for run in word.runs if run.text.strip()]
    is_bold = bool(runs) and all(run.bold for run in runs)
    return is_bold or word.alignment == WD_ALIGN_PARAGRAPH.CENTER
