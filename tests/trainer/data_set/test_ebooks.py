"""E-books, put together by hand as their makers do."""

import pytest

from tests.trainer.data_set.zip_files import zip_of
from verse.poem_files.reading import ContentError
from verse_trainer.data_set.archives import Archive, epub_text, is_epub

CONTAINER = (
    '<?xml version="1.0"?><container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
    '<rootfiles><rootfile full-path="OEBPS/content.opf"/></rootfiles></container>'
)
NCX = (
    '<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/"><navMap><navPoint>'
    '<navLabel><text>雨</text></navLabel><content src="text/b%20c.xhtml#x"/>'
    "</navPoint></navMap></ncx>"
)


def page(body: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html>'
        f'<html xmlns="http://www.w3.org/1999/xhtml"><head><title>诗集</title></head>'
        f"<body>{body}</body></html>"
    ).encode()


def package(*pages: str, more: str = "") -> bytes:
    items = "".join(
        f'<item id="p{n}" href="{href}" media-type="application/xhtml+xml"/>'
        for n, href in enumerate(pages)
    )
    spine = "".join(f'<itemref idref="p{n}"/>' for n in range(len(pages)))
    return (
        f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}{more}</manifest>'
        f'<spine toc="ncx">{spine}</spine></package>'
    ).encode()


BOOK = {
    "mimetype": b"application/epub+zip",
    "META-INF/container.xml": CONTAINER.encode(),
    "OEBPS/content.opf": package(
        "text/cover.xhtml",
        "text/a.xhtml",
        "text/b%20c.xhtml",
        more='<item id="ncx" href="toc.ncx" media-type="application/x-dtbncx+xml"/>',
    ),
    "OEBPS/toc.ncx": NCX.encode(),
    "OEBPS/text/cover.xhtml": page("<p>封面</p>"),
    "OEBPS/text/a.xhtml": page("<h1>河</h1><p>水在走<br/>灯不走</p>"),
    "OEBPS/text/b c.xhtml": page("<p>雨在落<br/>伞也不&nbsp;</p>"),
}


def test_chapters_are_read_in_order_and_named_by_heading_or_contents() -> None:
    content = zip_of(BOOK)
    assert is_epub(Archive(content))
    assert epub_text(Archive(content)) == "# 河\n水在走\n灯不走\n\n---\n# 雨\n雨在落\n伞也不\n"


def test_a_newer_book_has_its_contents_in_a_page() -> None:
    nav = page('<nav><ol><li><a href="text/b%20c.xhtml">雪</a></li></ol></nav>')
    item = '<item id="n" href="n.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
    newer = {"OEBPS/content.opf": package("text/b%20c.xhtml", more=item), "OEBPS/n.xhtml": nav}
    assert epub_text(Archive(zip_of(BOOK | newer))).startswith("# 雪\n雨在落")


ENCRYPTION = (
    '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><EncryptedData>'
    '<CipherData><CipherReference URI="{}"/></CipherData></EncryptedData></encryption>'
)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"META-INF/container.xml": b"<container/>"}, "does not say what is in it"),
        ({"META-INF/container.xml": b""}, "cannot be read"),
        ({"OEBPS/content.opf": package()}, "it has no chapters"),
        ({"OEBPS/content.opf": package("lost.xhtml")}, "OEBPS/lost.xhtml is missing"),
        ({"OEBPS/text/a.xhtml": b'<!DOCTYPE a [<!ENTITY b "c">]><html>&b;</html>'}, "entities"),
        (
            {"META-INF/encryption.xml": ENCRYPTION.format("OEBPS/text/a.xhtml").encode()},
            "locked by the shop",
        ),
    ],
)
def test_a_book_that_is_broken_or_locked_is_one_sentence(
    change: dict[str, bytes], problem: str
) -> None:
    with pytest.raises(ContentError, match=problem):
        epub_text(Archive(zip_of(BOOK | change)))


def test_fonts_in_disguise_lock_nothing() -> None:
    fonts = {"META-INF/encryption.xml": ENCRYPTION.format("OEBPS/a.ttf").encode()}
    assert "水在走" in epub_text(Archive(zip_of(BOOK | fonts)))
    assert not is_epub(Archive(zip_of({"a.txt": b"x"})))
