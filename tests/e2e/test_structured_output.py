"""JSON by schema as a judge's client asks for it: the official SDK, pydantic, a busy server.

Everything has a bound: verse-tiny has never seen JSON and may write digits for ever.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

from tests.e2e.conftest import Served

RIVER: Any = [{"role": "user", "content": "河"}]


class Reason(BaseModel):
    model_config = ConfigDict(extra="forbid")
    行: str = Field(max_length=6)
    weight: int | None = Field(default=None, ge=0, le=3)


class Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: str = Field(max_length=6)
    score: int = Field(ge=0, le=10)
    mood: Literal["静", "悲", "喜"]
    reasons: list[Reason] = Field(min_length=1, max_length=2)


def test_every_parsed_answer_is_a_verdict_and_poems_beside_it_stay_the_same(
    served: Served,
) -> None:
    chat = served.client.chat.completions

    def poem(seed: int) -> str:
        answer = chat.create(model="xuzhimo", messages=RIVER, seed=seed, max_tokens=80)
        return answer.choices[0].message.content or ""

    def verdicts(model: str) -> list[Verdict]:
        answer = chat.parse(
            model=model,
            messages=RIVER,
            response_format=Verdict,
            seed=8,
            n=3,
            temperature=1.2,
            frequency_penalty=0.3,
        )
        assert {choice.finish_reason for choice in answer.choices} == {"stop"}
        return [choice.message.parsed for choice in answer.choices if choice.message.parsed]

    alone = [poem(seed) for seed in range(3)]
    with ThreadPoolExecutor(6) as pool:
        asked = pool.map(verdicts, ("base", "hushi", "xuzhimo"))
        together = list(pool.map(poem, range(3)))
        answers = [answer for three in asked for answer in three]
    assert together == alone
    assert len(answers) == 9
    assert len({answer.title for answer in answers}) > 3
    assert any("\u4e00" <= character <= "\u9fff" for a in answers for character in a.title)


def test_a_streamed_verdict_is_the_whole_one(served: Served) -> None:
    chat = served.client.chat.completions
    wanted: Any = {"model": "libai", "messages": RIVER, "response_format": Verdict, "seed": 5}
    whole = chat.parse(**wanted).choices[0].message
    with chat.stream(**wanted) as stream:
        streamed = stream.get_final_completion().choices[0].message
    assert streamed.parsed == whole.parsed
    assert streamed.content == whole.content


def test_max_tokens_may_cut_json_short(served: Served) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        served.client.chat.completions.parse(
            model="base", messages=RIVER, response_format=Verdict, max_tokens=8
        )


def test_a_schema_that_cannot_be_compiled_is_told_why(served: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="uniqueItems") as refused:
        served.client.chat.completions.create(
            model="base",
            messages=RIVER,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "set", "schema": {"uniqueItems": True}},
            },
        )
    assert refused.value.param == "response_format"


def test_json_object_is_an_object(served: Served) -> None:
    answer = served.client.chat.completions.create(
        model="base", messages=RIVER, response_format={"type": "json_object"}, max_tokens=30
    )
    assert (answer.choices[0].message.content or "").startswith("{")
