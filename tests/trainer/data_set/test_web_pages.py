"""Web pages as lines of poems."""

import pytest

from verse.poem_files.reading import ContentError
from verse_trainer.data_set.web_pages import (
    declared_encoding,
    html_text,
    html_title,
    looks_like_html,
)

PAGES: dict[str, tuple[str, str]] = {
    "a break is a line": ("<p>水在走<br>灯不走<br/>岸</p>", "水在走\n灯不走\n岸\n"),
    "a paragraph is a line where each holds one": (
        "<p>水在走</p><p>灯不走</p><p><br></p><p>岸</p>",
        "水在走\n灯不走\n\n岸\n",
    ),
    "a paragraph of several lines is a stanza": (
        "<p>水在走<br>灯不走</p>\n<p>岸<br>桥</p>",
        "水在走\n灯不走\n\n岸\n桥\n",
    ),
    "headings and rules part poems": (
        "<h2>河</h2><p>水在走</p><hr><h2>雨<br>天</h2>雨在落",
        "## 河\n水在走\n---\n## 雨 天\n雨在落\n",
    ),
    "line ends of the source are no lines": (
        "<div>\n  水在\n  走\n</div><div>a\n b</div>",
        "水在走\na b\n",
    ),
    "preformatted lines are": ("<pre>水在走\n  灯不走</pre>", "水在走\n灯不走\n"),
    "spaces that are meant stay": ("<p>　　水&nbsp;&nbsp;走</p>", "　　水  走\n"),
    "what frames a page is passed over": (
        "<nav>首页</nav><script>var a = 1</script><style>p{}</style><!-- 注 -->"
        "<article><p>水在走</p></article><footer>© 2020</footer>",
        "水在走\n",
    ),
    "pinyin above a line stays away": (
        "<p><ruby>水<rp>(</rp><rt>shuǐ</rt><rp>)</rp></ruby>在走</p>",
        "水在走\n",
    ),
    "cells and items are lines": ("<ul><li>水</li><li>灯</li></ul><td>岸</td>", "水\n灯\n岸\n"),
    "tags that nobody closed are no matter": ("<p>水<br><b>灯<p>岸", "水\n灯\n\n岸\n"),
}


@pytest.mark.parametrize("rule", PAGES)
def test_a_page_is_read_as_it_is_seen(rule: str) -> None:
    page, expected = PAGES[rule]
    assert html_text(f"<!DOCTYPE html><html><body>{page}</body></html>".encode()) == expected


@pytest.mark.parametrize("charset", ["gb2312", "gbk", "big5", "utf-8", "nonsense"])
def test_a_page_says_its_encoding(charset: str) -> None:
    page = f'<html><head><meta charset="{charset}"><title> 河 </title></head><p>水在走岸不走</p>'
    content = page.encode("utf-8" if charset == "nonsense" else charset)
    assert html_text(content) == "水在走岸不走\n"
    assert html_title(content) == "河"
    forced = page.encode("utf-16-le")
    assert html_text(forced, "utf-16-le") == "水在走岸不走\n"


def test_a_page_that_lies_about_its_encoding_is_read_all_the_same() -> None:
    page = '<meta http-equiv="Content-Type" content="text/html; charset=big5"><p>水在走着</p>'
    assert html_text(page.encode()) == "水在走着\n"
    assert declared_encoding(page.encode()) == "big5"
    assert declared_encoding("<p>水".encode()) is None


def test_entities_that_a_page_declares_are_not_expanded() -> None:
    page = '<!DOCTYPE html [<!ENTITY a "水水水">]><html><p>&a;走</p></html>'
    assert "水" not in html_text(page.encode())


def test_a_page_is_known_by_how_it_begins() -> None:
    assert looks_like_html("<!-- x -->\n<!DOCTYPE HTML><html>")
    assert looks_like_html('<?xml version="1.0"?><html xmlns="x">')
    assert not looks_like_html("<水在走>")


def test_a_page_without_anything_is_one_sentence() -> None:
    with pytest.raises(ContentError, match="there is no page in it"):
        html_text(b"   ")


def test_a_tree_that_the_parser_would_cut_off_is_refused() -> None:
    deep = "<div>" * 5000 + "水" + "</div>" * 5000
    with pytest.raises(ContentError, match="nested too deep"):
        html_text(f"<html><body><p>灯</p>{deep}</body></html>".encode())
