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
    "any divider parts poems": (
        "集.txt",
        "水在走\n\n※※※\n\n雨在落\n\n————————\n雪\n＊ ＊ ＊\n霜\n",
        [("集", "水在走", 1), ("集", "雨在落", 5), ("集", "雪", 8), ("集", "霜", 10)],
    ),
    "bracketed titles begin poems, wherever they stand": (
        "集.txt",
        "《河》\n水在走\n灯不走\n《雨》\n雨在落\n",
        [("河", "水在走\n灯不走", 1), ("雨", "雨在落", 4)],
    ),
    "behind other lines they do so after a gap": (
        "集.txt",
        "# 河\n水在走\n《诗经》\n没有带走\n\n《雨》\n雨在落\n\n《雪》\n雪\n",
        [("河", "水在走\n《诗经》\n没有带走", 1), ("雨", "雨在落", 6), ("雪", "雪", 9)],
    ),
    "numbered titles begin poems": (
        "集.txt",
        "一、河\n水在走\n\n灯不走\n\n二、《雨》\n雨在落\n",
        [("河", "水在走\n\n灯不走", 1), ("雨", "雨在落", 6)],
    ),
    "numbers alone do, too": (
        "集.txt",
        "一、\n水在走\n二、\n雨在落\n",
        [("集", "水在走", 1), ("集", "雨在落", 3)],
    ),
    "sections of one poem are no poems": (
        "河.txt",
        "一\n水在走\n\n二\n灯不走\n\n（三）\n岸\n",
        [("河", "一\n水在走\n\n二\n灯不走\n\n（三）\n岸", 1)],
    ),
    "numbers that do not count from one are lines": (
        "河.txt",
        "三、二、一\n水在走\n一、二\n灯不走\n",
        [("河", "三、二、一\n水在走\n一、二\n灯不走", 1)],
    ),
    "a list is one text": ("河.txt", "1. 水\n2. 灯\n3. 岸\n", [("河", "1. 水\n2. 灯\n3. 岸", 1)]),
    "lines that name a title are titles": (
        "集.txt",
        "题目：河\n水在走\n\n\n标题：《雨》\n雨在落\n",
        [("河", "水在走", 2), ("雨", "雨在落", 5)],
    ),
    "keys above a poem need no fence": (
        "2024-01.txt",
        "title: 河\ndate: 2024-01-02\n\n水在走\n",
        [("河", "水在走", 4)],
    ),
    "a fence of another kind is front matter, too": (
        "a.md",
        '+++\ntitle = "河"\ndraft = false\n+++\n水在走\n',
        [("河", "水在走", 5)],
    ),
    "who wrote a book is no poem": (
        "集.md",
        "# 我的诗\n张三\n2020年冬\n\n## 河\n水\n",
        [("河", "水", 5)],
    ),
    "a title parted from its poem by a bare name": (
        "集.txt",
        "河\n张三\n\n水在走\n\n\n雨\n张三\n\n雨在落\n",
        [("河", "水在走", 1), ("雨", "雨在落", 7)],
    ),
    "a title parted from its poem by who wrote it": (
        "集.txt",
        "河\n作者：张三\n水在走\n\n\n雨\n\n雨在落\n",
        [("河", "水在走", 1), ("雨", "雨在落", 6)],
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
    (titled,) = read_text("---\ntitle: 河\n---\n水\n", Path("集.md"))
    assert isinstance(titled, Taken)
    assert titled.kind == "poems in Markdown"


def fields_of(text: str) -> list[dict[str, str]]:
    found = read_text(text, Path("集.txt"))
    return [dict(piece.fields) for piece in found if isinstance(piece, Taken)]


def test_who_and_when_become_fields() -> None:
    text = "《河》\n张三\n\n水在走\n\n2020.1.2 于杭州\n\n《雨》\n张三\n雨在落\n（写于2020年冬）\n"
    assert fields_of(text) == [
        {"author": "张三", "date": "2020.1.2 于杭州"},
        {"author": "张三", "date": "写于2020年冬"},
    ]


def test_what_the_front_matter_says_holds_for_poems_that_say_nothing() -> None:
    head = "---\ntitle: 集\nauthor: 海子\ndate: 2020-01-02\n---\n"
    assert fields_of(head + "水在走") == [{"author": "海子", "date": "2020-01-02"}]
    assert fields_of(head + "# 河\n海子\n水\n# 雨\n落\n西川 著\n") == [
        {"author": "海子"},
        {"author": "西川"},
    ]


@pytest.mark.parametrize(
    ("text", "doubt"),
    [
        ("\n".join(["水在走"] * 200), ""),
        ("\n".join(["水在走"] * 201), "it has 201 lines"),
        ("锦瑟" * 32, ""),
        ("水在走，灯不走，" * 11, "its lines read like prose"),
        ("\n".join(["水在走，灯不走，岸也不走。" * 4] * 3), "its lines read like prose"),
        ("the river goes and the lamp stays where it was, on the bank,\nwaiting\nall night", ""),
    ],
)
def test_long_texts_and_prose_are_doubted(text: str, doubt: str) -> None:
    (piece,) = read_text(text, Path("a.txt"))
    assert isinstance(piece, Taken)
    assert piece.doubt == doubt


def test_what_stands_before_the_first_title_is_doubted() -> None:
    first, second, third = read_text("我的诗集\n\n《河》\n水\n《雨》\n落\n", Path("a.txt"))
    assert isinstance(first, Taken)
    assert first.doubt == "it stands before the first title"
    assert [piece.doubt for piece in (second, third) if isinstance(piece, Taken)] == ["", ""]


@pytest.mark.parametrize("text", ["---\ntitle: 河\n---\n", "title: 河\n", "---\n\n---\n"])
def test_a_head_with_nothing_under_it_is_refused(text: str) -> None:
    (refused,) = read_text(text, Path("a.md"))
    assert isinstance(refused, Refused)
    assert refused.problem == "there is a title and no poem under it"


def test_who_wrote_it_may_stand_beside_the_title() -> None:
    text = "《河》 张三\n水在走\n《雨》/文/海子\n落\n《雪》（外一首）\n白\n《灯》（唐）李白\n亮\n"
    found = [piece for piece in read_text(text, Path("a.txt")) if isinstance(piece, Taken)]
    assert [(piece.poem.theme, piece.poem.author) for piece in found] == [
        ("河", "张三"),
        ("雨", "海子"),
        ("雪", ""),
        ("灯", "李白"),
    ]
    (poem,) = read_text("《诗经》里的水\n在走\n", Path("a.txt"))
    assert isinstance(poem, Taken)
    assert poem.poem.text == "《诗经》里的水\n在走"
