"""The poems as the original project's JSON, Markdown and plain text."""

import json
from pathlib import Path

import pytest

from verse.records import Candidate
from verse_clients.errors import OutputError
from verse_clients.generate.inputs import read_candidates
from verse_clients.generate.output import check_made, encode, files_of, write_as

POEMS = [
    Candidate(theme="河", text="河水\n  流", adapter="hushi", checkpoint=80, prompt_tokens=7,
              completion_tokens=11, variant="写{theme}"),
    Candidate(theme="雨", text="下*雨*", adapter="hushi"),
    Candidate(theme="河", text="河床", variant="写{theme}"),
]  # fmt: skip


def test_the_originals_list_has_its_own_fields_and_bytes() -> None:
    content = encode("seed", POEMS)
    rows = json.loads(content)
    assert rows[0] == {
        "title": "河",
        "prompt": "写河",
        "checkpoint_number": 80,
        "checkpoint_path": "hushi/0000080_adapters.safetensors",
        "body": "河水\n  流",
        "prompt_token": 7,
        "generate_token": 11,
        "prompt_variant_index": 1,
    }
    assert [row["prompt"] for row in rows] == ["写河", "雨", "写河"]
    assert rows[1]["checkpoint_path"] == "hushi/adapters.safetensors"
    assert [row["checkpoint_number"] for row in rows] == [80, 0, 0]
    assert [row["prompt_variant_index"] for row in rows] == [1, 2, 1]
    assert rows[2]["checkpoint_path"] == ""
    assert content.decode() == json.dumps(rows, ensure_ascii=False, indent=2)


def test_the_originals_scripts_can_read_the_list() -> None:
    """What process2 does with each row, in our words: each body once, and the step of its title."""
    twice = [*POEMS, POEMS[0], Candidate(theme="河", text=" \n")]
    by_title: dict[str, list[int]] = {}
    bodies: list[str] = []
    for row in json.loads(encode("seed", twice)):
        bodies.append(row["body"].strip())
        step = row["checkpoint_number"] // 100 * 100 + row["prompt_variant_index"] - 1
        by_title.setdefault(row["title"], []).append(step)
        assert row["prompt"].strip()
    assert len(set(bodies)) == len(bodies) == 3
    assert by_title == {"河": [0, 0], "雨": [1]}


def test_a_text_for_reading_stands_beside_the_originals_list(tmp_path: Path) -> None:
    write_as("seed", POEMS, tmp_path / "run.2.json")
    text = (tmp_path / "run.2.txt").read_text("utf-8")
    assert text == "河水\n  流\n\n下*雨*\n\n河床\n\n"
    write_as("seed", POEMS[:1], tmp_path / "run.2.json")
    assert (tmp_path / "run.2.txt").read_text("utf-8") == "河水\n  流\n\n"


def test_a_text_that_was_there_before_the_list_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("河 雨", "utf-8")
    with pytest.raises(OutputError, match=r"words\.txt is there already; name another output"):
        check_made("seed", tmp_path / "words.json")
    write_as("seed", POEMS, tmp_path / "words.json")
    assert (tmp_path / "words.json").exists()
    assert (tmp_path / "words.txt").read_text("utf-8") == "河 雨"


def test_the_list_is_read_again_as_the_candidates_they_were(tmp_path: Path) -> None:
    write_as("seed", POEMS, tmp_path / "a.json")
    again = read_candidates(tmp_path / "a.json")
    assert [(c.theme, c.text, c.adapter, c.checkpoint) for c in again] == [
        (c.theme, c.text, c.adapter, c.checkpoint) for c in POEMS
    ]


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
