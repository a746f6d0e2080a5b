"""Word's documents, made by python-docx itself or by hand."""

import io
import zipfile
from collections.abc import Callable

import docx
import pytest
from docx.document import Document
from docx.enum.text import WD_ALIGN_PARAGRAPH, WD_BREAK
from docx.oxml import parse_xml

from tests.trainer.data_set.zip_files import zip_of
from verse.poem_files.reading import ContentError
from verse_trainer.data_set import word_files
from verse_trainer.data_set.archives import Archive
from verse_trainer.data_set.word_files import (
    docx_text,
    is_docx,
    is_rtf,
    refuse_old_office,
    rtf_text,
)

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def saved(fill: Callable[[Document], object]) -> bytes:
    document = docx.Document()
    fill(document)
    stream = io.BytesIO()
    document.save(stream)
    return stream.getvalue()


def lines(*texts: str) -> bytes:
    def fill(document: Document) -> None:
        for text in texts:
            document.add_paragraph(text)

    return saved(fill)


def text_of(content: bytes) -> str:
    return docx_text(content, Archive(content))


def test_a_paragraph_is_a_line_and_an_empty_one_a_gap() -> None:
    assert text_of(lines("水在走", "　　灯不走", "", "岸")) == "水在走\n　　灯不走\n\n岸\n"


def test_a_paragraph_of_several_lines_is_a_stanza() -> None:
    assert text_of(lines("水在走\n灯不走", "岸\n桥")) == "水在走\n灯不走\n\n岸\n桥\n"
    assert text_of(lines("水在走\n灯不走", "", "岸\n桥")) == "水在走\n灯不走\n\n岸\n桥\n"


def test_headings_and_ends_of_pages_are_marked() -> None:
    def fill(document: Document) -> None:
        document.add_heading("我的诗", 0)
        document.add_heading("河", 1)
        document.add_paragraph("水在走").add_run().add_break(WD_BREAK.PAGE)
        document.add_paragraph("雨在落")

    assert text_of(saved(fill)) == "# 我的诗\n## 河\n水在走\n---\n雨在落\n"


def test_what_is_bold_or_in_the_middle_is_a_title_where_there_are_no_headings() -> None:
    def fill(document: Document) -> None:
        document.add_paragraph().add_run("河").bold = True
        for text in ("水在走", "灯不走", ""):
            document.add_paragraph(text)
        for text in ("雨", "张三"):
            document.add_paragraph(text).alignment = WD_ALIGN_PARAGRAPH.CENTER
        for text in ("雨在落", "灯不落", "伞也不"):
            document.add_paragraph(text)

    assert text_of(saved(fill)) == "# 河\n水在走\n灯不走\n\n# 雨\n张三\n雨在落\n灯不落\n伞也不\n"


def test_a_poem_that_is_all_in_the_middle_has_no_title() -> None:
    def fill(document: Document) -> None:
        for text in ("水在走", "灯不走"):
            document.add_paragraph(text).alignment = WD_ALIGN_PARAGRAPH.CENTER

    assert text_of(saved(fill)) == "水在走\n灯不走\n"


def test_changes_that_are_tracked_are_read_as_accepted() -> None:
    def fill(document: Document) -> None:
        paragraph = document.add_paragraph("水")
        change = 'w:id="1" w:author="a" w:date="2020-01-01T00:00:00Z"'
        for xml in (
            f"<w:ins {W} {change}><w:r><w:t>在走</w:t></w:r></w:ins>",
            f"<w:del {W} {change}><w:r><w:delText>不走</w:delText></w:r></w:del>",
        ):
            paragraph.paragraph_format.element.append(parse_xml(xml))

    assert text_of(saved(fill)) == "水在走\n"


def test_pinyin_above_a_line_stays_away_and_tables_are_read() -> None:
    ruby = (
        f"<w:r {W}><w:ruby><w:rt><w:r><w:t>shuǐ</w:t></w:r></w:rt>"
        "<w:rubyBase><w:r><w:t>水</w:t></w:r></w:rubyBase></w:ruby></w:r>"
    )

    def fill(document: Document) -> None:
        document.add_paragraph().paragraph_format.element.append(parse_xml(ruby))
        document.add_table(1, 1).cell(0, 0).text = "灯"

    assert text_of(saved(fill)) == "水\n灯\n"


def test_a_document_is_known_by_what_is_in_it() -> None:
    assert is_docx(Archive(lines("水")))
    assert not is_docx(Archive(zip_of({"a.txt": b""})))
    assert is_rtf(b"{\\rtf1 x}")
    assert not is_rtf("水".encode())


def without(part: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            if name != part:
                new.writestr(name, old.read(name))
    return stream.getvalue()


def with_part(part: str, xml: bytes, content: bytes) -> bytes:
    stream = io.BytesIO(without(part, content))
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(part, xml)
    return stream.getvalue()


BODY = "word/document.xml"
GOOD = lines("水在走")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (GOOD[: len(GOOD) // 2], "broken or was not downloaded whole"),
        (without(BODY, GOOD), "the document is broken"),
        (without("[Content_Types].xml", GOOD), "the document is broken"),
        (with_part(BODY, b"<w:doc", GOOD), "the document is broken"),
        (with_part(BODY, b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', GOOD), "declares entities"),
        (with_part(BODY, bytes(2 << 20), GOOD), "larger than 1 MB"),
    ],
)
def test_a_document_that_is_broken_or_a_trap_is_one_sentence(
    content: bytes, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_files, "_MAX_XML_BYTES", 1 << 20)
    with pytest.raises(ContentError, match=problem):
        text_of(content)


def old_office(stream: str) -> bytes:
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600) + stream.encode("utf-16-le")


@pytest.mark.parametrize(
    ("stream", "problem"),
    [
        ("EncryptedPackage", "protected by a password"),
        ("WordDocument", "save it as .docx"),
        ("Workbook", "old Office program"),
    ],
)
def test_old_and_locked_documents_say_what_to_do(stream: str, problem: str) -> None:
    with pytest.raises(ContentError, match=problem):
        refuse_old_office(old_office(stream))


def test_rtf_is_read_in_the_code_page_it_names_and_in_unicode() -> None:
    gbk = "".join(f"\\'{byte:02x}" for byte in "水在走".encode("gbk"))
    unicode = "".join(f"\\u{ord(char)}?" for char in "灯不走")
    rtf = f"{{\\rtf1\\ansi\\ansicpg936\\uc1 {gbk}\\line {unicode}\\par\\par \\u23736?\\par}}"
    assert rtf_text(rtf.encode()) == "水在走\n灯不走\n\n岸\n"


@pytest.mark.parametrize(
    ("rtf", "problem"),
    [
        (b"{\\rtf1\\ansi\\ansicpg936 \\'cb}", "is broken"),
        (b"{\\rtf1\\u99999999? x}", "is broken"),
        (b"{\\rtf1 {\\pict\\bin9 123456789}}", "pictures"),
    ],
)
def test_broken_rtf_is_one_sentence(rtf: bytes, problem: str) -> None:
    with pytest.raises(ContentError, match=problem):
        rtf_text(rtf)
