"""langchain-openai against a running server; `OPENAI_BASE_URL` and `OPENAI_API_KEY` name it."""

# pyright: reportMissingImports=false, reportUnknownParameterType=false
# The client is not installed with the project; tests/e2e/test_real_clients.py brings it.
import asyncio
from typing import Any, Literal

import openai
import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, ConfigDict, Field

ADAPTERS = ("xuzhimo", "hushi", "libai", "xuzhimo:0.7+hushi:0.3")


def poet(model: str = "xuzhimo", **fields: Any) -> ChatOpenAI:
    return ChatOpenAI(model=model, max_retries=0, **{"seed": 3, "max_tokens": 12, **fields})


def test_a_seed_writes_the_same_poem_whole_and_streamed_and_both_have_usage() -> None:
    whole = poet().invoke("河")
    assert whole.content
    assert whole.response_metadata["model_name"] == "xuzhimo"
    assert whole.response_metadata["system_fingerprint"].startswith("verse-tiny-")
    chunks = list(poet(stream_usage=True).stream("河"))
    assert len(chunks) > 5
    assert "".join(chunk.text for chunk in chunks) == whole.content
    (usage,) = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    for kind in ("input_tokens", "output_tokens", "total_tokens"):
        assert usage[kind] == whole.usage_metadata[kind] > 0


def test_a_batch_and_adapters_at_once_write_what_each_writes_alone() -> None:
    themes = ["河", "月", "山", "雪"]
    alone = [poet().invoke(theme).content for theme in themes]
    assert [answer.content for answer in poet().batch(themes)] == alone

    async def together() -> list[Any]:
        batch = poet().abatch(themes)
        return await asyncio.gather(batch, *(poet(name).ainvoke("河") for name in ADAPTERS))

    batch, *answers = asyncio.run(together())
    assert [answer.content for answer in batch] == alone
    poems = [answer.content for answer in answers]
    assert poems == [poet(name).invoke("河").content for name in ADAPTERS]
    assert len(set(poems)) == len(ADAPTERS)


def test_a_chain_and_a_conversation() -> None:
    chain = ChatPromptTemplate.from_messages([("system", "写诗"), ("user", "{theme}")]) | poet()
    first = chain.invoke({"theme": "河"})
    turns = [SystemMessage("写诗"), HumanMessage("河"), first, HumanMessage("再写一首")]
    second = poet(stop=["\n"]).invoke(turns)
    assert "\n" not in second.content
    assert second.usage_metadata["input_tokens"] > first.usage_metadata["total_tokens"]


def test_our_own_fields_go_into_the_extra_body() -> None:
    base = poet("base", extra_body={"adapters": "hushi", "top_k": 5}).invoke("河")
    assert base.content == poet("hushi", extra_body={"top_k": 5}).invoke("河").content


def test_several_answers_with_logprobs() -> None:
    both = poet(n=2, logprobs=True, top_logprobs=2)
    (choices,) = both.generate([[HumanMessage("河")]]).generations
    assert choices[0].text != choices[1].text
    for choice in choices:
        entries = choice.generation_info["logprobs"]["content"]
        assert "".join(entry["token"] for entry in entries) == choice.text
        assert {len(entry["top_logprobs"]) for entry in entries} == {2}


class Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    mood: Literal["静", "悲", "喜"]
    score: int = Field(ge=0, le=10)


@pytest.mark.parametrize("strict", [None, True])
def test_structured_output_is_a_verdict(strict: bool | None) -> None:
    judge = poet("base", max_tokens=60).with_structured_output(
        Verdict, method="json_schema", strict=strict
    )
    assert isinstance(judge.invoke("河"), Verdict)
    assert all(isinstance(answer, Verdict) for answer in judge.batch(["河", "月"]))


def test_structured_output_by_default_and_as_a_dictionary() -> None:
    assert isinstance(
        poet("hushi", max_tokens=60).with_structured_output(Verdict).invoke("河"), Verdict
    )
    schema = Verdict.model_json_schema()
    answer = (
        poet("hushi", max_tokens=60).with_structured_output(schema, include_raw=True).invoke("河")
    )
    assert answer["parsing_error"] is None
    assert Verdict.model_validate(answer["parsed"])


@pytest.mark.parametrize("strict", [None, True])
def test_structured_output_by_function_calling(strict: bool | None) -> None:
    judge = poet("base", max_tokens=60).with_structured_output(
        Verdict, method="function_calling", strict=strict
    )
    assert isinstance(judge.invoke("河"), Verdict)
    *_, last = judge.stream("河")
    assert isinstance(last, Verdict)


def test_tools_are_called_and_their_results_go_back() -> None:
    model = poet(max_tokens=60).bind_tools([Verdict], tool_choice="any")
    turns: list[Any] = [HumanMessage("河")]
    called = model.invoke(turns)
    (call,) = called.tool_calls
    assert Verdict.model_validate(call["args"])
    streamed = None
    for chunk in model.stream(turns):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed is not None
    assert streamed.tool_calls[0]["args"] == call["args"]
    turns += [called, ToolMessage("四行", tool_call_id=call["id"])]
    answer = poet().bind_tools([Verdict], tool_choice="none").invoke(turns)
    assert answer.content
    assert (
        answer.usage_metadata["input_tokens"] > poet().invoke("河").usage_metadata["input_tokens"]
    )


def test_the_older_completions() -> None:
    llm = OpenAI(model="libai", max_retries=0, seed=3, max_tokens=12, temperature=0.8)
    first = llm.invoke("床前明月光，")
    assert first
    assert "".join(llm.stream("床前明月光，")) == first
    assert llm.batch(["床前明月光，", "大江东去，"])[0] == first


def test_errors_are_the_sdk_s() -> None:
    with pytest.raises(openai.NotFoundError, match="nobody"):
        poet("nobody").invoke("河")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        poet(temperature=3).invoke("河")
    with pytest.raises(openai.AuthenticationError):
        poet(api_key="wrong").invoke("河")
    with pytest.raises(ContextOverflowError):
        poet().invoke("河" * 9000)
