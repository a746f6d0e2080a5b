"""A folder as poets have them: more than thirty files of all kinds, each made by what writes such.

All poems are our own. What a test expects of a file stands beside it.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import docx
import pyarrow
from docx.document import Document
from docx.enum.text import WD_ALIGN_PARAGRAPH
from pyarrow import parquet

from tests.trainer.data_set.original import generated, seed_text
from tests.trainer.data_set.test_ebooks import BOOK
from tests.trainer.data_set.zip_files import zip_of

RIVER = "渡口的风\n把缆绳吹成一根弦\n没有人来弹它"
SNOW = "雪落在秤盘上\n卖菜的人说\n这不算斤两"
LAMP = "灯在水上走\n  没有回头\n河记得"


def word() -> bytes:
    document = docx.Document()
    for title, poem in (("渡口", RIVER), ("雪", SNOW)):
        document.add_heading(title, 1)
        document.add_paragraph("张三").alignment = WD_ALIGN_PARAGRAPH.CENTER
        document.add_paragraph("")
        for line in poem.split("\n"):
            document.add_paragraph(line)
        document.add_paragraph("2020.1.2 于杭州")
    return _saved(document)


def stanzas() -> bytes:
    document = docx.Document()
    document.add_paragraph(RIVER)
    document.add_paragraph(SNOW)
    return _saved(document)


def _saved(document: Document) -> bytes:
    stream = io.BytesIO()
    document.save(stream)
    return stream.getvalue()


def rtf(text: str) -> bytes:
    """As WordPad writes it on a Chinese Windows."""
    written = "".join(
        "\\par\n" if char == "\n" else "".join(f"\\'{byte:02x}" for byte in char.encode("gbk"))
        for char in text
    )
    head = "\\rtf1\\ansi\\ansicpg936\\deff0{\\fonttbl{\\f0\\fnil\\fcharset134 SimSun;}}"
    return f"{{{head}{written}}}".encode()


def page(title: str, poem: str) -> str:
    lines = poem.replace("\n", "<br>")
    return (
        f"<!DOCTYPE html><html><head><meta charset='gbk'><title>{title} | 博客</title></head>"
        f"<body><nav>首页</nav><h1>{title}</h1><p>作者：张三</p><p>{lines}</p></body></html>"
    )


def in_parquet() -> bytes:
    stream = io.BytesIO()
    parquet.write_table(pyarrow.table({"title": ["灯"], "content": [LAMP]}), stream)
    return stream.getvalue()


def rows(*objects: object) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in objects).encode()


CHAT = f"""张三  2020-01-02 12:30
《渡口》
{RIVER}

李四  2020-01-02 12:31
[图片]
李四  2020-01-02 12:32
好诗

李四  2020-01-02 12:33
《雪》
{SNOW}
"""
LOG = "2020-01-02 12:00:01 INFO start\nIter 10: Train loss 2.31\nIter 20: Train loss 2.2\n"
NOVEL = "\n".join(["他沿着河走了很久，" * 12] * 30)
ANSWERED = [{"from": "human", "value": "灯"}, {"from": "gpt", "value": LAMP}]

FOUND: Mapping[str, tuple[bytes, list[str]]] = {
    "我的 诗.docx": (word(), ["渡口", "雪"]),
    "两节.docx": (stanzas(), ["两节"]),
    "灯.rtf": (rtf(LAMP), ["灯"]),
    "博客.html": (page("渡口", RIVER).encode("gbk"), ["渡口"]),
    "book.epub": (zip_of(BOOK), ["河", "雨"]),
    "表.csv": (
        f'题目,正文,作者\n渡口,"{RIVER}",张三\n雪,"{SNOW}",\n'.encode("gbk"),
        ["渡口", "雪"],
    ),
    "table.tsv": (f'title\ttext\n灯\t"{LAMP}"\n'.encode("utf-16"), ["灯"]),
    "rows.parquet": (in_parquet(), ["灯"]),
    "gbk/渡口.txt": (RIVER.encode("gb18030"), ["渡口"]),
    "gbk/雪.txt": ("雪落在秤盤上\n賣菜的人說\n這不算斤兩".encode("big5"), ["雪"]),
    "gbk/灯.txt": (LAMP.encode("utf-16"), ["灯"]),
    "utf8/集.txt": (f"《渡口》\n{RIVER}\n\n※※※\n\n《雪》\n{SNOW}\n".encode(), ["渡口", "雪"]),
    "utf8/组诗.txt": (f"一、渡口\n{RIVER}\n二、雪\n{SNOW}\n".encode(), ["渡口", "雪"]),
    "utf8/2020.md": (f"---\ntitle: 灯\nauthor: 张三\n---\n{LAMP}\n".encode(), ["灯"]),
    "utf8/heads.txt": (f"题目：灯\n作者：张三\n日期：2020-01-02\n\n{LAMP}\n".encode(), ["灯"]),
    "json/唐.json": (
        json.dumps([{"title": "渡口", "author": "张三", "paragraphs": RIVER.split("\n")}]).encode(),
        ["渡口"],
    ),
    "json/词.json": (
        json.dumps([{"rhythmic": "雪", "paragraphs": ["□落在秤盘上"]}]).encode(),
        ["雪"],
    ),
    "json/sharegpt.json": (json.dumps([{"conversations": ANSWERED}]).encode(), ["灯"]),
    "json/alpaca.json": (
        json.dumps([{"instruction": "写诗", "input": "灯", "output": LAMP}]).encode(),
        ["灯"],
    ),
    "json/kto.jsonl": (
        rows(
            {"prompt": "灯", "completion": LAMP, "label": True},
            {"prompt": "灯", "completion": "坏诗", "label": False},
        ),
        ["灯"],
    ),
    "json/train.jsonl": (rows({"text": seed_text("渡口", RIVER)}), ["渡口"]),
    "zip/诗集.zip": (zip_of({"a/渡口.txt": RIVER.encode("gbk"), "b.py": b""}), ["渡口"]),
    "聊天.txt": (CHAT.encode(), []),  # both are asked about
}
"""Files that poems are found in, with their themes."""

LEFT: Mapping[str, tuple[bytes, str]] = {
    "README.md": (b"# Poems\n", "a README"),
    "LICENSE": (b"MIT", "a licence"),
    "code/train.py": (b"print(1)\n", "code"),
    "code/package.json": (b'{"name": "x"}', "configuration"),
    "code/lora.yaml": (b"a: 1\n", "configuration"),
    "code/adapters/adapter_config.json": (b"{}", "configuration"),
    "code/adapters/adapters.safetensors": (b"\0\1", "weights of a model"),
    "words.txt": ("河 雨 雪 灯".encode(), "a list of words"),
    "prompts.txt": ("写{theme}".encode(), "a prompt"),
    "run.log": (LOG.encode(), "a log"),
    "notes/output.txt": (LOG.encode(), "a log"),
    "notes/ask.txt": ("你是一位诗人，请写一首诗，题目是：".encode(), "a prompt"),
    "notes/setup.txt": (b"import os\nx = os.getcwd()\nprint(x)\n", "code"),
    "json/valid.jsonl": (rows({"text": "雪\n<|end|>\n白"}), "rows to validate with"),
    "photo.jpg": (b"\xff\xd8", "pictures, sound or video"),
}
"""Files that are left out whole, with what they are."""

REFUSED: Mapping[str, tuple[bytes, str]] = {
    "锁.docx": (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"),
        "protected by a password",
    ),
    "broken.epub": (zip_of(BOOK)[:900], "the file is broken"),
    "three.csv": (b"title,text,poem,body\na,b,c,d\n", "3 of its columns may hold the poem"),
    "notebook.ipynb": (b'{"cells": [], "nbformat": 4, "metadata": {}}', "Jupyter notebook"),
    "老 诗.doc": (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "WordDocument".encode("utf-16-le"),
        "save it as .docx",
    ),
    "scan.pdf": (b"%PDF-1.7\n", "save the poems as .docx or as text"),
    "mixed.txt": ("水在走\n".encode() + "灯不走".encode("gbk"), "name it with --encoding"),
}
"""Files that cannot be read, with what is said of them."""

ASKED: Mapping[str, tuple[bytes, str]] = {
    "小说.txt": (NOVEL.encode(), "its lines read like prose"),
    "长诗.txt": ("\n".join(f"第{n}行" for n in range(250)).encode(), "it has 250 lines"),
}
"""Files that are asked about."""

UNREVIEWED = rows(generated("灯", LAMP + "\n没有人"))
"""Of `made.json`: a model wrote it, and nobody decided about it."""


def make_folder(folder: Path) -> Path:
    """Write all of it."""
    for files in (FOUND, LEFT, REFUSED, ASKED):
        for name, (content, _) in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    (folder / "made.json").write_bytes(UNREVIEWED)
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_bytes(b"x")
    with (folder / "huge.txt").open("wb") as stream:
        stream.truncate(2 << 30)
    return folder
