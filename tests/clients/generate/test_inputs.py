"""Files that are wrong are told in one sentence."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from verse import jsonl
from verse.prompt import Message
from verse.records import Candidate, Decision, Poem, TrainingExample
from verse_clients.errors import InputError
from verse_clients.generate.inputs import (
    read_accepted,
    read_candidates,
    read_themes,
    read_training,
    read_variants,
)

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def written(content: str | bytes, name: str = "file.txt") -> Path:
    path = Path(name)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_themes_are_lines_each_once() -> None:
    assert read_themes(written("\ufeff风\r\n\n 雨 \n风\n雪 夜")) == ["风", "雨", "雪 夜"]


def test_the_theme_alone_is_a_variant_too() -> None:
    assert read_variants(written("{theme}\n写{theme}\n写{theme}\n")) == [None, "写{theme}"]


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "is empty"), (" \n\n", "is empty"), ("风\n雨".encode("gbk"), "file.txt:1 is not UTF-8")],
)
def test_themes_that_cannot_be_read_are_told(content: str | bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_themes(written(content))
    with pytest.raises(InputError, match="No such file"):
        read_themes(Path("nowhere.txt"))


def test_a_variant_without_a_place_for_the_theme_is_told() -> None:
    with pytest.raises(InputError, match="'写诗' has no "):
        read_variants(written("写{theme}\n写诗\n"))
    with pytest.raises(InputError, match="is empty"):
        read_variants(written(""))


def test_training_poems_may_be_poems_or_rows_to_learn_from() -> None:
    path = Path("train.jsonl")
    row = (Message("system", "写诗"), Message("user", "雨"), Message("assistant", "下雨"))
    jsonl.append(path, Poem(theme="风", text="起风"), TrainingExample(messages=row))
    assert [(p.theme, p.text) for p in read_training([path])] == [("风", "起风"), ("雨", "下雨")]


@pytest.mark.parametrize("content", [" \n", '{"theme": "风"}\n', '{"text": 5}\n'])
def test_a_training_file_without_poems_is_told(content: str) -> None:
    with pytest.raises(InputError, match="no poems"):
        read_training([written(content)])


def test_poems_that_were_rejected_are_neither_training_nor_accepted() -> None:
    rejected = '{"theme": "雨", "text": "落", "label": false}\n'
    path = written('{"theme": "风", "text": "起风"}\n' + rejected)
    for poems in (read_training([path]), read_accepted(path)):
        assert [poem.text for poem in poems] == ["起风"]
    with pytest.raises(InputError, match="holds only poems that are rejected"):
        read_training([written(rejected)])


def test_words_with_blanks_between_them_are_themes() -> None:
    assert read_themes(written("河 干涸 虫翅 河 \n")) == ["河", "干涸", "虫翅"]
    words = " ".join("一二三四五六七八九")
    assert read_themes(written(f"{words}\n雪 夜\n")) == [*"一二三四五六七八九", "雪 夜"]
    assert read_themes(written("落霞与孤鹜齐飞 秋水共长天一色 渔舟唱晚\n")) == [
        "落霞与孤鹜齐飞 秋水共长天一色 渔舟唱晚"
    ]
    assert read_themes(written("river rain snow\n")) == ["river rain snow"]


def test_accepted_poems_are_those_a_journal_says_in_the_poets_version() -> None:
    path = Path("decisions.jsonl")
    poems = [Candidate(theme="风", text=text) for text in ("一", "二", "三")]
    jsonl.append(
        path,
        Decision(action="accept", candidate=poems[0], blind=True, time=NOW),
        Decision(action="edit", candidate=poems[1], text="二二", blind=True, time=NOW),
        Decision(action="reject", candidate=poems[2], blind=True, time=NOW),
    )
    assert [poem.text for poem in read_accepted(path)] == ["一", "二二"]


def test_accepted_poems_may_be_a_file_of_poems() -> None:
    path = Path("accepted.jsonl")
    jsonl.append(path, Poem(theme="风", text="起风", origin="accepted"))
    assert [poem.text for poem in read_accepted(path)] == ["起风"]


def test_a_torn_last_line_is_passed_over() -> None:
    path = Path("poems.jsonl")
    jsonl.append(path, Candidate(theme="风", text="起风"))
    path.write_bytes(path.read_bytes() + b'{"theme": "')
    assert [poem.text for poem in read_candidates(path)] == ["起风"]


def test_a_file_of_something_else_is_no_output() -> None:
    with pytest.raises(InputError, match="It holds no poems"):
        read_candidates(written('{"theme": 5}\n'))
