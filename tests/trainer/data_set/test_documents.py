"""Which files `verse data` reads, which it refuses, and which files of a folder it leaves."""

import io
import json
import sys
from pathlib import Path, PurePath

import docx
import pytest

from tests.trainer.data_set.zip_files import zip_of
from verse.poem_files import Found, LeftOut, ReadOptions, Refused, Taken, read_content
from verse_trainer.data_set.documents import (
    is_hidden,
    is_read,
    kind_by_look,
    kind_by_name,
    read_document,
)

NONE = ReadOptions()
RIVER = "水在走\n灯不走"


def read(content: bytes, name: str, options: ReadOptions = NONE) -> list[Found]:
    return read_content(content, Path(name), options, [read_document])


def poems(found: list[Found]) -> list[tuple[str, str, str, str]]:
    return [(str(p.path), p.kind, p.poem.theme, p.poem.text) for p in found if isinstance(p, Taken)]


def word(*lines: str) -> bytes:
    document = docx.Document()
    for line in lines:
        document.add_paragraph(line)
    stream = io.BytesIO()
    document.save(stream)
    return stream.getvalue()


RTF = b"{\\rtf1 \\u27700?\\u22312?\\u36208?\\line \\u28783?\\u19981?\\u36208?}"
PAGE = f"<html><head><title>河 - 我的博客</title></head><p>{RIVER.replace(chr(10), '<br>')}</p>"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("河.docx", word("水在走", "灯不走"), "poems in Word named after their file"),
        ("河", word("《河》", "水在走", "灯不走"), "poems in Word"),
        ("河.rtf", RTF, "poems in RTF named after their file"),
        ("x.html", PAGE.encode("gbk"), "poems in HTML"),
        ("河.txt", PAGE.encode(), "poems in HTML named after their file"),
        ("x.csv", f'title,text\n河,"{RIVER}"\n'.encode(), "rows of a table"),
        ("x.txt", f"张三 12:30\n《河》\n{RIVER}\n张三 12:31\n好\n".encode(), "poems in a chat"),
        ("河.txt", RIVER.encode("gbk"), "poems in text named after their file (GB18030)"),
        ("x.json", json.dumps({"title": "河", "text": RIVER}).encode(), "theme and poem records"),
    ],
)  # fmt: skip
def test_a_file_is_read_by_what_is_in_it(name: str, content: bytes, kind: str) -> None:
    assert poems(read(content, name)) == [(name, kind, "河", RIVER)]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"%PDF-1.7\n", "save the poems as .docx or as text"),
        (bytes(60) + b"BOOKMOBI", "convert it to EPUB"),
        (zip_of({"xl/workbook.xml": b""}), "save it as CSV"),
        (zip_of({"content.xml": b"", "mimetype": b""}), "save it as .docx"),
        (zip_of({"a.py": b"", ".b": b""})[:40], "broken or was not downloaded whole"),
        (zip_of({".b": b""}), "nothing in the zip file can hold poems"),
        (json.dumps({"cells": [], "nbformat": 4}).encode(), "Jupyter notebook"),
    ],
)
def test_what_verse_does_not_read_is_refused_with_what_to_do(content: bytes, problem: str) -> None:
    (refused,) = read(content, "诗 集")
    assert isinstance(refused, Refused)
    assert problem in str(refused)
    assert str(refused).startswith("诗 集:1: ")


def test_a_zip_file_of_anything_is_read_member_by_member() -> None:
    inner = zip_of({"雨.txt": b"\xd3\xea\xd4\xda\xc2\xe4\xcf\xc2\xc0\xb4\xc1\xcb"})
    found = read(
        zip_of(
            {
                "诗/河.docx": word("水在走", "灯不走"),
                "诗/inner.zip": inner,
                "broken.docx": b"PK\x03\x04",
                "code.py": b"",
                "__MACOSX/河.txt": b"x",
                "../河.txt": RIVER.encode(),
            }
        ),
        "a.zip",
    )
    assert [(path, theme) for path, _, theme, _ in poems(found)] == [
        ("a.zip/诗/inner.zip/雨.txt", "雨"),
        ("a.zip/诗/河.docx", "河"),
    ]
    left_out = {(str(p.path), p.reason) for p in found if isinstance(p, LeftOut)}
    assert left_out == {
        ("a.zip/code.py", "code"),
        ("a.zip/河.txt", "under a name that leads out of the zip file"),
    }
    (refused,) = [p for p in found if isinstance(p, Refused)]
    assert "a.zip/broken.docx:1: the file is broken" in str(refused)


def test_zip_files_in_one_another_have_a_floor_and_one_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nested = zip_of({"河.txt": RIVER.encode()})
    for _ in range(2):
        nested = zip_of({"a.zip": nested})
    (refused,) = read(nested, "a.zip")
    assert "unpack it first" in str(refused)
    monkeypatch.setattr("verse_trainer.data_set.documents._MAX_UNPACKED", 5000)
    bomb = zip_of({"a.txt": bytes(4000), "b.zip": zip_of({"c.txt": bytes(4000)})})
    *_, refused = read(bomb, "a.zip")
    assert "more than is read" in str(refused)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("train.py", "code"),
        ("lora.yaml", "configuration"),
        ("LICENSE", "a licence"),
        ("LICENSE.txt", "a licence"),
        ("README.md", "a README"),
        ("README_zh.md", "a README"),
        ("CHANGELOG.md", "a README"),
        ("words.txt", "a list of words"),
        ("themes.txt", "a list of words"),
        ("prompt_variants.txt", "a prompt"),
        ("提示词.txt", "a prompt"),
        ("train.log", "a log"),
        ("requirements.txt", "configuration"),
        ("adapter_config.json", "configuration"),
        ("model.safetensors.index.json", "configuration"),
        ("valid.jsonl", "rows to validate with"),
        ("photo.JPG", "pictures, sound or video"),
        ("adapters.safetensors", "weights of a model"),
        ("x.exe", "of a kind that Verse does not read"),
        ("poems.jsonl.old", "of a kind that Verse does not read"),
        ("河.txt", ""),
        ("train.jsonl", ""),
        ("test.txt", ""),
        ("Words and rain.txt", ""),
        ("诗.pdf", ""),
        ("poems", ""),
    ],
)
def test_a_file_is_left_out_by_its_name(name: str, kind: str) -> None:
    assert kind_by_name(PurePath(name)) == kind


LOOKS = {
    "a licence": "Copyright (c) 2020\n\nPermission is hereby granted, free of charge, to anybody",
    "a README": "# Project\n\n```\npip install x\n```\n\n## Usage\n\ntext",
    "a prompt": "写一首关于{theme}的诗",
    "a log": "2020-01-02 12:00:01 INFO start\n2020-01-02 12:00:02 INFO end\nIter 10: loss 2.3\n",
    "configuration": "model: base\nlora_layers: 16\n# rank\niters: 100\n- a\n",
    "code": "import os\n\ndef main():\n    x = os.getcwd()\n    print(x)\n    return x\n",
    "a list of words": "河 雨 雪 灯 岸 桥 母亲 车站 黄昏 石头 水 火 山 海 云 风 月 星 花 草 木\n",
}


@pytest.mark.parametrize("kind", LOOKS)
def test_a_text_is_left_out_by_its_look(kind: str) -> None:
    assert kind_by_look(LOOKS[kind]) == kind


def test_words_in_a_column_are_a_list() -> None:
    words = "\n".join(f"词{chr(0x4E00 + 7 * n)}" for n in range(30))
    assert kind_by_look(words) == "a list of words"
    assert kind_by_look(words.replace("\n", "\n\n", 1)) == ""


def test_poems_look_like_none_of_these() -> None:
    rows = Path(__file__).parents[3] / "data" / "poems.jsonl"
    for line in rows.read_text("utf-8").splitlines():
        assert kind_by_look(json.loads(line)["text"]) == ""
    for poem in (
        "你是一位诗人\n站在河边",
        "Import the river.\nThe lamp returns\nfrom its own light;\nnothing is left;",
        "水\n灯\n岸",
        "The river goes;\nthe lamp stays;\nwhere (it was),\non the bank;",
    ):
        assert kind_by_look(poem) == ""


def test_a_programs_own_files_are_hidden() -> None:
    assert is_hidden(PurePath("a/.git/b.txt"))
    assert is_hidden(PurePath("node_modules/a.md"))
    assert not is_hidden(PurePath("诗/河.txt"))
    assert is_read(PurePath("诗/河.DOCX"))
    assert not is_read(PurePath("a.py"))


@pytest.mark.parametrize(
    ("library", "name", "content", "part"),
    [
        ("docx", "a.docx", word("水"), "documents"),
        ("striprtf", "a.rtf", RTF, "documents"),
        ("lxml", "a.html", PAGE.encode(), "documents"),
        ("pyarrow", "a.parquet", b"PAR1PAR1", "parquet"),
    ],
)
def test_a_library_that_is_missing_is_one_sentence(
    library: str, name: str, content: bytes, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [m for m in sys.modules if m == library or m.startswith(f"{library}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    (refused,) = read(content, name)
    assert str(refused).endswith(f"in the folder of Verse run: pip install -e '.[{part}]'.")
