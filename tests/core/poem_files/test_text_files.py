"""Where poems begin in a file of text, and what they are called."""

from pathlib import Path

import pytest

from verse.poem_files import Refused, Taken
from verse.poem_files.text_files import read_text

POEMS: dict[str, tuple[str, str, list[tuple[str, str, int]]]] = {
    "a file without a title is one poem named after the file": (
        "河.txt",
        "水在走\n　　灯不走\n\n岸\n",
        [("河", "水在走\n　　灯不走\n\n岸", 1)],
    ),
    "a first line that is the file's name is its title": (
        "河.txt",
        "河\n\n水在走\n",
        [("河", "水在走", 1)],
    ),
    "a heading is the title": ("a.md", "\n# 河\n\n水在走  \n灯\n", [("河", "水在走\n灯", 2)]),
    "a bracketed first line is the title": ("a.txt", "《河》\n水在走\n", [("河", "水在走", 1)]),
    "rules part poems": (
        "集.txt",
        "水在走\n\n---\n\n雨在落\n\n* * *\n雪\n",
        [("集", "水在走", 1), ("集", "雨在落", 5), ("集", "雪", 8)],
    ),
    "headings part poems, and stanzas stay together": (
        "集.md",
        "# 河\n水\n\n\n\n走\n# 雨 #\n落\n",
        [("河", "水\n\n\n\n走", 1), ("雨", "落", 7)],
    ),
    "the title of the book is no poem": (
        "集.md",
        "# 我的诗\n\n## 河\n水\n\n## 雨\n落\n",
        [("河", "水", 3), ("雨", "落", 6)],
    ),
    "two blank lines part poems, one parts stanzas": (
        "集.txt",
        "河\n\n水\n\n岸\n\n\n雨\n\n落\n",
        [("河", "水\n\n岸", 1), ("雨", "落", 8)],
    ),
    "a first line alone is no title unless all poems have one": (
        "集.txt",
        "河\n\n水\n\n\n雨\n落\n",
        [("集", "河\n\n水", 1), ("集", "雨\n落", 6)],
    ),
    "front matter gives the title": (
        "2024-01.md",
        '---\ntitle: "河"\ntags:\n  - 水\n---\n\n水在走\n',
        [("河", "水在走", 7)],
    ),
}


@pytest.mark.parametrize("rule", POEMS)
def test_poems_are_told_apart(rule: str) -> None:
    name, text, expected = POEMS[rule]
    found = read_text(text, Path(name))
    assert [
        (piece.poem.theme, piece.poem.text, piece.line)
        for piece in found
        if isinstance(piece, Taken)
    ] == expected
    assert len(found) == len(expected)


def test_a_title_with_nothing_under_it_is_refused_at_its_line() -> None:
    (_, refused) = read_text("# 河\n水\n\n# 雨\n\n", Path("a.md"))
    assert isinstance(refused, Refused)
    assert str(refused) == "a.md:4: there is a title and no poem under it."


def test_poems_named_after_their_file_are_reported_as_such() -> None:
    kinds = [
        piece.kind
        for piece in read_text("# 河\n水\n---\n雨\n", Path("集.md"))
        if isinstance(piece, Taken)
    ]
    assert kinds == ["poems in Markdown", "poems in Markdown named after their file"]
