"""From a file to what it holds: its size, its encoding, its format."""

import json
import random
from pathlib import Path

import pytest

from verse.poem_files import Refused, Taken, read_content, read_file
from verse.poem_files.reading import ContentError, Decoded, checked_encoding, decode

SIMPLIFIED = "渡口的风\n把缆绳吹成一根弦\n没有人来弹它\n夜里它自己响了一声"
TRADITIONAL = "渡口的風\n把纜繩吹成一根弦\n沒有人來彈它\n夜裡它自己響了一聲"
GERMAN = "Über den Flüssen\nhängt noch das Licht\nwie später Rauch"


@pytest.mark.parametrize(
    ("text", "encoding", "told"),
    [
        (SIMPLIFIED, "utf-8", ""),
        (SIMPLIFIED, "utf-8-sig", ""),
        (SIMPLIFIED, "gb18030", "GB18030"),
        (SIMPLIFIED, "gb2312", "GB18030"),
        (TRADITIONAL, "gbk", "GB18030"),
        (TRADITIONAL, "big5", "Big5"),
        (SIMPLIFIED, "utf-16", "UTF-16"),
        (SIMPLIFIED, "utf-16-le", "UTF-16"),
        (TRADITIONAL, "utf-16-be", "UTF-16"),
        (SIMPLIFIED, "utf-32", "UTF-32"),
        (GERMAN, "cp1252", "Windows-1252"),
        ("𠮷野\n㐂喜", "gb18030", "GB18030"),
    ],
)
def test_an_encoding_is_detected_and_told(text: str, encoding: str, told: str) -> None:
    assert decode(text.encode(encoding)) == Decoded(text, told)


@pytest.mark.parametrize(("text", "encoding"), [(SIMPLIFIED, "gb18030"), (TRADITIONAL, "big5")])
def test_a_few_characters_are_enough(text: str, encoding: str) -> None:
    characters = text.replace("\n", "")
    draw = random.Random(7)
    for _ in range(40):
        short = "".join(draw.sample(characters, 10))
        assert decode(short.encode(encoding)).text == short


def test_line_ends_are_plain_and_the_mark_is_gone() -> None:
    assert decode("\ufeff水\r\n走\r灯\x1a".encode()).text == "水\n走\n灯"


def test_an_encoding_that_is_forced_is_taken() -> None:
    assert decode(SIMPLIFIED.encode("gbk"), "gbk") == Decoded(SIMPLIFIED, "gbk")
    korean = "강가에 불빛 하나\n물만 흐른다"
    assert decode(korean.encode("euc-kr"), "euc-kr").text == korean


@pytest.mark.parametrize(
    ("content", "encoding", "line", "problem"),
    [
        ("水\n".encode() + "河水".encode("gbk"), None, 2, "name it with --encoding"),
        (SIMPLIFIED.encode("gbk"), "utf-8", 1, "this is not utf-8; try without"),
        (SIMPLIFIED.encode(), "klingon", 1, "there is no encoding 'klingon'"),
        (SIMPLIFIED.encode(), "base64", 1, "there is no encoding 'base64'"),
        (b"PK\x03\x04\0\0\0\0", None, 1, "not a text file"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)), None, 1, "not a text file"),
        ("渡口的风\x1b[2J".encode("gbk"), None, 1, "cannot be told"),
        ("水\0".encode("gb18030"), "gb18030", 1, "not a text file"),
        (b"\xff\xfe\x00", None, 1, "begins as UTF-16 and is broken"),
    ],
)
def test_what_is_no_text_or_cannot_be_told_is_said(
    content: bytes, encoding: str | None, line: int, problem: str
) -> None:
    with pytest.raises(ContentError, match=problem) as told:
        decode(content, encoding)
    assert told.value.line == line


def test_names_of_encodings_are_pythons() -> None:
    assert checked_encoding("GB18030") == "gb18030"


@pytest.mark.parametrize("name", ["河.txt", "河.json"])
def test_the_encoding_of_a_file_is_told_with_what_was_found(name: str) -> None:
    rows = [{"title": "河", "text": SIMPLIFIED}]
    text = json.dumps(rows, ensure_ascii=False) if name.endswith("json") else SIMPLIFIED
    (piece,) = read_content(text.encode("gbk"), Path(name))
    assert isinstance(piece, Taken)
    assert (piece.poem.theme, piece.poem.text) == ("河", SIMPLIFIED)
    assert piece.kind.endswith(" (GB18030)")


def test_a_file_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "诗 全集.txt"
    with file.open("wb") as stream:
        stream.truncate(2 << 30)  # with nothing in it, it takes no room on the disk
    (refused,) = read_file(file)
    assert isinstance(refused, Refused)
    assert "it has 2048 MB, more than the 256 that are read" in str(refused)
    assert file.name in str(refused)


def test_rows_beside_one_in_another_encoding_are_read() -> None:
    row = json.dumps({"title": "河", "text": "水"}, ensure_ascii=False)
    content = row.encode() + b"\n" + row.encode("gbk") + b"\n" + row.encode() + b"\n"
    pieces = read_content(content, Path("a.jsonl"))
    assert [type(piece) for piece in pieces] == [Taken, Refused, Taken]
