"""Rows of Chinese corpora, of chat data sets and of annotation tools."""

import json
from pathlib import Path

import pytest

from verse.poem_files import Found, LeftOut, Refused, Taken, read_content

RIVER = "水在走\n灯不走"


def read(*rows: object) -> list[Found]:
    text = json.dumps(rows, ensure_ascii=False)
    return read_content(text.encode(), Path("in.json"))


ONE: dict[str, dict[str, object]] = {
    "paragraphs": {"title": "河", "author": "张三", "paragraphs": ["水在走", "灯不走"]},
    "a tune and no title": {"rhythmic": "河", "author": "张三", "paragraphs": ["水在走", "灯不走"]},
    "a list of content": {
        "title": "河",
        "chapter": "国风",
        "section": "周南",
        "content": ["水在走", "灯不走"],
    },
    "content": {"title": "河", "author": "张三", "dynasty": "今", "content": RIVER},
    "para": {"title": "河", "author": "张三", "para": ["水在走", "灯不走"]},
    "Chinese keys": {"题目": "河", "作者": "张三", "正文": RIVER},
    "Chinese keys in traditional script": {"標題": "河", "作者": "张三", "內容": RIVER},
    "ShareGPT": {
        "id": "1",
        "conversations": [{"from": "human", "value": "河"}, {"from": "gpt", "value": RIVER}],
    },
    "ShareGPT with a system message and roles": {
        "conversations": [
            {"role": "system", "content": "写诗"},
            {"role": "user", "content": "河"},
            {"role": "assistant", "content": RIVER},
        ]
    },
    "alpaca": {"instruction": "河", "input": "", "output": RIVER},
    "alpaca with an input": {
        "instruction": "写一首诗",
        "input": "河",
        "output": RIVER,
        "history": [],
    },
    "TRL's turns": {
        "prompt": [{"role": "user", "content": "河"}],
        "completion": [{"role": "assistant", "content": RIVER}],
    },
    "KTO, wanted": {"prompt": "河", "completion": RIVER, "label": True},
    "Argilla 1": {
        "fields": {"title": "河", "content": RIVER},
        "responses": [{"status": "submitted"}],
    },
    "Argilla 2": {
        "id": "a",
        "status": "completed",
        "fields": {"theme": "河", "text": RIVER},
        "responses": {"good": [{"value": "通过", "status": "submitted", "user_id": "u"}]},
    },
    "Label Studio": {
        "id": 3,
        "data": {"title": "河", "paragraphs": ["水在走", "灯不走"]},
        "annotations": [{"was_cancelled": False, "result": [{"value": {"choices": ["accept"]}}]}],
    },
    "Label Studio's short form": {
        "title": "河",
        "text": RIVER,
        "id": 3,
        "verdict": "accept",
        "annotation_id": 4,
        "lead_time": 2.5,
    },
}


@pytest.mark.parametrize("shape", ONE)
def test_a_row_is_a_theme_and_a_poem(shape: str) -> None:
    (piece,) = read(ONE[shape])
    assert isinstance(piece, Taken), piece
    assert (piece.poem.theme, piece.poem.text) == ("河", RIVER)
    author = "张三" if "张三" in json.dumps(ONE[shape], ensure_ascii=False) else ""
    assert piece.poem.author == author


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "河", "completion": RIVER, "label": False}, "rejected"),
        ({"conversations": [], "kto_tag": False}, "rejected"),
        ({"fields": {"title": "河", "content": RIVER}, "status": "discarded"}, "rejected"),
        (
            {"data": {"title": "河", "text": RIVER}, "annotations": [{"was_cancelled": True}]},
            "not decided on",
        ),
        ({"title": "河", "paragraphs": [RIVER], "verdict": "退稿"}, "rejected"),
    ],
)
def test_what_such_a_row_says_of_itself_is_heeded(row: dict[str, object], reason: str) -> None:
    (piece,) = read(row)
    assert isinstance(piece, LeftOut)
    assert piece.reason == reason


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            {"title": "河", "content": RIVER, "paragraphs": ["雨"]},
            "several texts: paragraphs, content",
        ),
        ({"title": "河", "paragraphs": 3}, "neither text nor a list of lines"),
        ({"title": "河", "paragraphs": []}, "its poem is empty"),
        ({"chapter": "学而", "paragraphs": ["子曰"]}, "it has no poem: its keys are chapter"),
        ({"conversations": [{"from": "gpt", "value": RIVER}]}, "longer conversation"),
        (
            {"instruction": "河", "output": RIVER, "history": [["雨", "落"]]},
            "it is a longer conversation",
        ),
        ({"instruction": "河", "output": RIVER, "chosen": "a"}, "preference pair"),
        ({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, "Jupyter notebook"),
    ],
)
def test_what_is_not_plain_is_refused(row: dict[str, object], problem: str) -> None:
    (piece,) = read(row)
    assert isinstance(piece, Refused)
    assert problem in piece.problem


def test_a_script_is_kept_as_it_is_and_stanzas_are_lists() -> None:
    (piece,) = read({"title": "渡口", "paragraphs": [["沒有人來彈", "它自己響"], ["船就醒了"]]})
    assert isinstance(piece, Taken)
    assert piece.poem.text == "沒有人來彈\n它自己響\n\n船就醒了"


def test_a_chapter_of_prose_in_a_corpus_is_doubted() -> None:
    (piece,) = read({"title": "渡口", "content": "水在走，灯不走，" * 40})
    assert isinstance(piece, Taken)
    assert piece.doubt == "its lines read like prose"
    (poem,) = read({"theme": "渡口", "text": "水在走，灯不走，" * 40})
    assert isinstance(poem, Taken)
    assert poem.doubt == ""


def test_poems_under_their_author_are_read() -> None:
    by_author = {"张三": [{"title": "河", "paragraphs": ["水在走"]}]}
    (piece,) = read_content(json.dumps(by_author).encode(), Path("in.json"))
    assert isinstance(piece, Taken)
    assert piece.poem.theme == "河"
