from pathlib import Path

import pytest

from tests.trainer.data_set.original import RIVER, seed_text, write_lines
from verse.prompt import POEM_SYSTEM, Message
from verse_trainer.data_set.rows import read_rows
from verse_trainer.errors import DataSetError

ASKED = {"role": "user", "content": "河"}
ANSWERED = {"role": "assistant", "content": "水"}


def test_all_shapes_of_a_conversation_are_read_in_the_files_order(tmp_path: Path) -> None:
    file = write_lines(
        tmp_path / "train.jsonl",
        {"messages": [ASKED, ANSWERED], "source": "a1", "origin": "edited"},
        "",
        {"prompt": "雨", "completion": "落"},
        {"text": seed_text("河", RIVER)},
        {"messages": [ASKED, ANSWERED, ASKED, ANSWERED]},
    )
    rows = read_rows(file)
    assert [row.line for row in rows] == [1, 3, 4, 5]
    assert rows[0].example.source == "a1"
    assert rows[0].example.origin == "edited"
    assert rows[1].example.messages == (Message("user", "雨"), Message("assistant", "落"))
    assert rows[2].example.messages == (
        Message("system", POEM_SYSTEM),
        Message("user", "河"),
        Message("assistant", RIVER),
    )
    assert len(rows[3].example.messages) == 4
    assert rows[3].place == f"{file}:5"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"text": "静夜床前"}, "does not begin with"),
        ({"theme": "河", "lines": ["水"]}, "its keys are theme, lines"),
        ({"messages": [ASKED]}, "nothing to learn"),
        ({"messages": []}, "nothing to learn"),
        ({"messages": [{"role": "poet", "content": "x"}]}, "Invalid enum value 'poet'"),
        ({"messages": [ASKED, ANSWERED], "tools": [{"type": "function"}]}, "tools"),
        ({"prompt": "河", "completion": 3}, "Expected `str | array`, got `int`"),
        ([1], "Expected `object`, got `array`"),
        ("not json", "JSON is malformed"),
    ],
)
def test_any_other_row_is_refused_by_file_and_line_and_names_the_import(
    row: object, problem: str, tmp_path: Path
) -> None:
    file = write_lines(tmp_path / "train.jsonl", {"messages": [ASKED, ANSWERED]}, row)
    with pytest.raises(DataSetError) as caught:
        read_rows(file)
    sentence = str(caught.value)
    assert sentence.startswith(f"{file}:2: ")
    assert problem in sentence
    assert "`verse data import`" in sentence


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match=r"train\.jsonl cannot be read: No such file"):
        read_rows(tmp_path / "train.jsonl")


def test_a_row_that_nobody_decided_about_is_not_learned(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "train.jsonl", {"theme": "河", "response": "水"})
    with pytest.raises(DataSetError, match=r"train\.jsonl:1: this row is not learned: it is unrev"):
        read_rows(file)


def test_titles_above_poems_and_records_are_rows_too(tmp_path: Path) -> None:
    file = write_lines(
        tmp_path / "valid.jsonl",
        {"text": "静夜\n<|end|>\n床前\n霜"},
        {"title": "河", "body": "水"},
    )
    titled, poem = (row.example.messages for row in read_rows(file))
    assert titled == (Message("user", "静夜"), Message("assistant", "床前\n霜"))
    assert poem[0].role == "system"
    assert poem[1:] == (Message("user", "河"), Message("assistant", "水"))
