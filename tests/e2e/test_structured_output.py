"""JSON by schema as a judge's client asks for it: the official SDK, pydantic, a busy server.

Everything has a bound: verse-tiny has never seen JSON and may write digits for ever.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

from tests.e2e.conftest import ROOT, Served
from tests.e2e.guide import block

GUIDE = (ROOT / "docs" / "api.md").read_text("utf-8")
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


def test_a_tool_that_must_be_called_is_called_and_one_that_may_be_is_not_for_this_base(
    served: Served,
) -> None:
    tools: Any = [
        openai.pydantic_function_tool(Verdict, name="judge"),
        openai.pydantic_function_tool(Reason, name="explain"),
    ]
    create = served.client.chat.completions.create
    asked: Any = {"model": "xuzhimo", "messages": RIVER, "tools": tools, "seed": 5}
    answer = create(**asked, tool_choice="required", n=3, temperature=1.2)
    for choice in answer.choices:
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls or [None]
        assert call is not None
        assert call.type == "function"
        kind = {"judge": Verdict, "explain": Reason}[call.function.name]
        assert kind.model_validate_json(call.function.arguments)
    with pytest.raises(openai.BadRequestError, match="json_schema"):
        create(**asked)


def test_a_tool_whose_schema_cannot_be_compiled_is_told_why(served: Served) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "strin"}}}
    function: Any = {"name": "set", "parameters": parameters}
    with pytest.raises(openai.BadRequestError, match="strin") as refused:
        served.client.chat.completions.create(
            model="base",
            messages=RIVER,
            tools=[{"type": "function", "function": function}],
            tool_choice="required",
        )
    assert refused.value.param == "tools"


def test_json_object_is_an_object(served: Served) -> None:
    answer = served.client.chat.completions.create(
        model="base", messages=RIVER, response_format={"type": "json_object"}, max_tokens=30
    )
    assert (answer.choices[0].message.content or "").startswith("{")


def test_a_poem_follows_the_grammar_of_the_guide(served: Served) -> None:
    """Four lines of seven characters, whatever the adapter, in Lark and in llama.cpp's GBNF."""
    lark, gbnf = (block(GUIDE, "", name) for name in ("start: line", "root ::= line"))
    for grammar, extra in ((lark, None), (gbnf, {"guided_grammar": gbnf})):
        wanted: Any = {"type": "grammar", "grammar": grammar}
        answer = served.client.chat.completions.create(
            model="libai",
            messages=RIVER,
            response_format=openai.omit if extra else wanted,
            extra_body=extra,
            seed=4,
            n=3,
        )
        for choice in answer.choices:
            lines = (choice.message.content or "").split("\n")
            assert [len(line) for line in lines] == [7, 7, 7, 7], lines
            assert all("\u4e00" <= character <= "\u9fff" for line in lines for character in line)
            assert choice.finish_reason == "stop"


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ({"guided_choice": ["静", "悲", "喜"]}, r"静|悲|喜"),
        ({"structured_outputs": {"regex": "[一-龥]{5}，[一-龥]{5}。"}}, r".{5}，.{5}。"),
    ],
)
def test_a_choice_and_a_pattern_hold_for_completions_too(
    served: Served, asked: dict[str, Any], fits: str
) -> None:
    answer = served.client.completions.create(
        model="libai", prompt=["河", "月"], extra_body=asked, seed=1, max_tokens=60
    )
    for choice in answer.choices:
        assert re.fullmatch(fits, choice.text), choice.text
