"""The poems as the original project's JSON, Markdown and plain text."""

import json
from pathlib import Path

import pytest

from verse.records import Candidate
from verse_clients.errors import OutputError
from verse_clients.generate.output import encode, files_of, write_as

POEMS = [
    Candidate(theme="河", text="河水\n  流", adapter="hushi", checkpoint=80, prompt_tokens=7,
              completion_tokens=11, variant="写{theme}"),
    Candidate(theme="雨", text="下*雨*", adapter="hushi"),
    Candidate(theme="河", text="河床", variant="写{theme}"),
]  # fmt: skip


def test_the_originals_object_holds_poems_by_theme_with_its_own_fields() -> None:
    themes = json.loads(encode("seed", POEMS))
    assert list(themes) == ["河", "雨"]
    assert themes["河"][0] == {
        "title": "河",
        "checkpoint_number": 80,
        "checkpoint_path": "hushi/0000080_adapters.safetensors",
        "body": "河水\n  流",
        "prompt_token": 7,
        "generate_token": 11,
        "prompt_variant_index": 0,
    }
    assert themes["雨"][0]["checkpoint_path"] == "hushi/adapters.safetensors"
    assert themes["雨"][0]["prompt_variant_index"] == 1
    assert themes["河"][1]["checkpoint_path"] == ""


def test_markdown_keeps_lines_and_indents_and_shows_its_own_signs() -> None:
    text = encode("markdown", POEMS).decode()
    assert "## 河\n\n河水\\\n\u2003流\n\n\\* \\* \\*\n\n河床" in text
    assert "下\\*雨\\*" in text


def test_plain_text_has_the_theme_above_each_poem() -> None:
    assert encode("text", POEMS[:2]).decode() == "河\n\n河水\n  流\n\n\n雨\n\n下*雨*\n"


@pytest.mark.parametrize(
    ("output", "wanted", "kept", "made", "format_"),
    [
        ("poems.jsonl", None, "poems.jsonl", None, "jsonl"),
        ("test1", None, "test1.jsonl", "test1.json", "seed"),
        ("out/test1.json", None, "out/test1.jsonl", "out/test1.json", "seed"),
        ("book.md", None, "book.jsonl", "book.md", "markdown"),
        ("book.txt", None, "book.jsonl", "book.txt", "text"),
        ("poems.jsonl", "seed", "poems.jsonl", "poems.json", "seed"),
        ("run.2", None, "run.2.jsonl", "run.2.json", "seed"),
    ],
)
def test_the_name_of_the_output_says_what_is_made(
    output: str, wanted: None, kept: str, made: str | None, format_: str
) -> None:
    expected = (Path(kept), None if made is None else Path(made), format_)
    assert files_of(Path(output), wanted) == expected


def test_a_place_that_cannot_be_written_is_told() -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_as("seed", POEMS, Path("nowhere/out.json"))
