"""Reading answers: clear ones only."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clients.judge.simulated import poems
from verse.records import RubricScores
from verse_clients.judge.prompts import make_question, read_prompt
from verse_clients.judge.replies import read_ranking, read_scores, schema_of

NAMES = ("theme_adherence", "poetic_quality", "fluency", "emotional_resonance")
SCORES = RubricScores(theme_adherence=4, poetic_quality=3, fluency=5, emotional_resonance=2)
OBJECT = '{"theme_adherence": 4, "poetic_quality": 3, "fluency": 5, "emotional_resonance": 2}'
OTHER = OBJECT.replace("4", "5").replace("3", "5").replace("2", "5")
QUESTION = make_question(read_prompt("ranking", "zh"), poems(5))
LABELS = list(QUESTION.labels)
IDS = QUESTION.candidates
BACK = LABELS[::-1]


@pytest.mark.parametrize(
    "reply",
    [
        OBJECT,
        f'{{"reasoning": "好}}坏", {OBJECT[1:]}',
        f"```json\n{OBJECT}\n```",
        f"<think>或许 {OTHER}</think>\n{OBJECT}",
        f"我想了想。\n\n{OBJECT}\n以上。",
        OBJECT.replace("3", "3.0"),
        "切题：4 分\n诗意与创造：3/5\n流畅连贯 5。\n**情感共鸣**: 2",
        "Theme adherence: 4, poetic quality: 3/5, fluency: 5, emotional resonance - 2.",
    ],
)
def test_clear_scores_are_read_whatever_stands_around_them(reply: str) -> None:
    assert read_scores(reply) == SCORES


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "这首诗很好，给5分。",
        "[4, 3, 5, 2]",
        OBJECT.replace("4", "6"),
        OBJECT.replace("4", "-1"),
        OBJECT.replace("4", "4.5"),
        OBJECT.replace("4", "null"),
        OBJECT.replace("4", '"4"'),
        OBJECT.replace('"fluency": 5, ', ""),
        OBJECT[:-8],
        f"诗里写着 {OTHER}，我给 {OBJECT}",
        "切题：4 或者 5。切题：5，诗意 3，流畅 5，情感共鸣 2",
        "切题：45，诗意 3，流畅 5，情感共鸣 2",
        "\ud800",
    ],
)
def test_scores_that_are_not_clear_are_none(reply: str) -> None:
    assert read_scores(reply) is None


@pytest.mark.parametrize(
    "reply",
    [
        json.dumps({"ranking": BACK}),
        json.dumps({"reasoning": "…", "ranking": [f"诗 {label}" for label in BACK]}),
        "```\n" + json.dumps({"ranking": BACK}) + "\n```",
        " > ".join(BACK),
        "**" + "** > **".join(BACK) + "**",
        "排名：" + "、".join(BACK),
        "\n".join(f"{place}. **{label}** 好" for place, label in enumerate(BACK, 1)),
    ],
)
def test_a_clear_order_is_read_whatever_stands_around_it(reply: str) -> None:
    assert read_ranking(reply, QUESTION) == IDS[::-1]


@pytest.mark.parametrize(
    "reply",
    [
        "",
        json.dumps({"ranking": BACK[:-1]}),
        json.dumps({"ranking": [*BACK[:-1], BACK[0]]}),
        json.dumps({"ranking": [*BACK, "A"]}),
        json.dumps({"ranking": [1, 2, 3, 4, 5]}),
        json.dumps({"ranking": BACK}) + json.dumps({"ranking": LABELS}),
        " > ".join(BACK) + "\n" + " > ".join(LABELS),
        f"要排的 5 首诗，代号是 {', '.join(LABELS)}",  # only repeats the question
        f"最好的是 {BACK[0]}。",
    ],
)
def test_an_order_that_is_not_clear_is_none(reply: str) -> None:
    assert read_ranking(reply, QUESTION) is None


@given(st.text(max_size=200))
def test_no_text_breaks_the_reading(text: str) -> None:
    read_scores(text)
    read_ranking(text, QUESTION)


def test_schemas_are_what_strict_servers_want() -> None:
    for kind in ("rubric", "ranking"):
        schema = schema_of(kind)
        assert schema["type"] == "object"
        assert schema["additionalProperties"] is False
        assert schema["required"] == list(schema["properties"])
        assert next(iter(schema["properties"])) == "reasoning"
    assert list(schema_of("rubric")["properties"])[1:] == list(NAMES)


def test_an_order_is_one_of_the_labels_and_of_as_many_as_there_are() -> None:
    ranking = schema_of("ranking", ("L", "F"))["properties"]["ranking"]
    assert ranking["items"]["enum"] == ["L", "F"]
    assert ranking["minItems"] == ranking["maxItems"] == 2
