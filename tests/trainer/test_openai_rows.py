"""Rows as OpenAI's files have them: turns that are only read, and preferences."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.core.tokenizer import make_tokenizer
from verse_trainer.config import TrainConfig
from verse_trainer.data_set.rows import read_rows
from verse_trainer.dpo import read_pairs
from verse_trainer.encoding import Encoder, encode_rows
from verse_trainer.errors import DataSetError


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def written(folder: Path, *rows: Any) -> Path:
    file = folder / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def encoder() -> Encoder:
    return Encoder(TrainConfig(), make_tokenizer(), 512, None)


TALK = [
    turn("user", "河"),
    turn("assistant", "不好"),
    turn("user", "再来"),
    turn("assistant", "好"),
]


def learned(folder: Path, *weights: int | None) -> str:
    """The text of what is learned of a talk whose answers have these weights."""
    turns = [dict(t) for t in TALK]
    for place, weight in zip((1, 3), weights, strict=True):
        if weight is not None:
            turns[place]["weight"] = weight
    row = encode_rows(read_rows(written(folder, {"messages": turns})), encoder())[0]
    return make_tokenizer().decode([row.token_ids[i] for i in row.targets])


def test_a_turn_of_weight_0_is_read_and_not_learned(tmp_path: Path) -> None:
    both = learned(tmp_path, None, 1)
    assert "不好" in both
    last, first = learned(tmp_path, 0, 1), learned(tmp_path, 1, 0)
    assert "不好" not in last
    assert "好" in last
    assert "不好" in first
    assert len(first) + len(last) == len(both)


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        ([turn("user", "河", weight=1), turn("assistant", "水")], "only an assistant's turn"),
        ([turn("user", "河"), turn("assistant", "水", weight=0.5)], "a weight, 0 or 1"),
        ([turn("user", "河"), turn("assistant", "水", weight=0)], r"it was rejected \(weight: 0\)"),
    ],
)
def test_a_weight_that_means_nothing_is_named(
    tmp_path: Path, turns: list[Any], problem: str
) -> None:
    with pytest.raises(DataSetError, match=rf"train\.jsonl:1: .*{problem}"):
        read_rows(written(tmp_path, {"messages": turns}))


def pair(**changes: Any) -> dict[str, Any]:
    row = {
        "input": {"messages": [turn("system", "写诗"), turn("user", "河")]},
        "preferred_output": [turn("assistant", "水流")],
        "non_preferred_output": [turn("assistant", "泥")],
    }
    return row | changes


def test_openais_preferences_are_pairs(tmp_path: Path) -> None:
    (found,) = read_pairs(written(tmp_path, pair()), encoder())
    assert (found.chosen.poem, found.rejected.poem) == ("水流", "泥")
    own = {"prompt": "河", "chosen": "水流", "rejected": "泥"}
    (ours,) = read_pairs(written(tmp_path, own), encoder())
    assert len(ours.chosen.targets) == len(found.chosen.targets)


@pytest.mark.parametrize(
    "row",
    [
        pair(preferred_output=[]),
        pair(preferred_output=[turn("user", "水流")]),
        pair(input={"messages": []}),
        pair(input={"messages": [turn("assistant", "水")]}),
        pair(input={"messages": [turn("user", "河")], "tools": [{}]}),
        {"input": "河"},
    ],
)
def test_a_preference_that_is_none_is_named_with_its_line(tmp_path: Path, row: Any) -> None:
    with pytest.raises(DataSetError, match=r"train\.jsonl:2: this is not a pair"):
        read_pairs(written(tmp_path, pair(), row), encoder())
