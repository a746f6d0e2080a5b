"""litellm against a running server; `OPENAI_BASE_URL` and `OPENAI_API_KEY` name it."""

# pyright: reportMissingImports=false
# The client is not installed with the project; tests/e2e/test_real_clients.py brings it.
import asyncio
import json
import os
from typing import Any, Literal

import litellm
import pytest
from pydantic import BaseModel, ConfigDict, Field

ADAPTERS = ("xuzhimo", "hushi", "libai", "xuzhimo:0.7+hushi:0.3")
RIVER = [{"role": "user", "content": "河"}]


def options(model: str = "xuzhimo", **fields: Any) -> dict[str, Any]:
    fixed: dict[str, Any] = {"messages": RIVER, "seed": 3, "max_tokens": 12, "num_retries": 0}
    return {"model": f"openai/{model}", **fixed, **fields}


def write(model: str = "xuzhimo", **fields: Any) -> str:
    return litellm.completion(**options(model, **fields)).choices[0].message.content


def test_the_models_are_listed() -> None:
    names = litellm.get_valid_models(
        check_provider_endpoint=True,
        custom_llm_provider="openai",
        api_base=os.environ["OPENAI_BASE_URL"],
    )
    assert {"verse-tiny", "xuzhimo", "hushi"} <= {name.removeprefix("openai/") for name in names}


def test_a_seed_writes_the_same_poem_whole_and_streamed_and_both_have_usage() -> None:
    whole = litellm.completion(**options())
    assert whole.choices[0].finish_reason in ("stop", "length")
    stream = litellm.completion(**options(stream=True, stream_options={"include_usage": True}))
    chunks = list(stream)
    assert len(chunks) > 5
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    rebuilt = litellm.stream_chunk_builder(chunks, messages=RIVER)
    assert rebuilt.choices[0].message.content == text
    assert rebuilt.usage.completion_tokens == whole.usage.completion_tokens > 0
    assert rebuilt.usage.prompt_tokens == whole.usage.prompt_tokens > 0


def test_adapters_at_once_write_what_each_writes_alone() -> None:
    async def together() -> list[Any]:
        return await asyncio.gather(
            *(litellm.acompletion(**options(name)) for name in ADAPTERS for _ in range(2))
        )

    poems = [answer.choices[0].message.content for answer in asyncio.run(together())]
    assert poems == [write(name) for name in ADAPTERS for _ in range(2)]
    assert len(set(poems)) == len(ADAPTERS)
    batch = litellm.batch_completion(**options(messages=[RIVER, RIVER]))
    assert [answer.choices[0].message.content for answer in batch] == [poems[0]] * 2


def test_a_router_of_adapters() -> None:
    router = litellm.Router(
        model_list=[
            {"model_name": f"poet {name}", "litellm_params": {"model": f"openai/{name}"}}
            for name in ADAPTERS
        ]
    )
    for name in ADAPTERS:
        answer = router.completion(**options() | {"model": f"poet {name}"})
        assert answer.choices[0].message.content == write(name)


def test_our_own_fields_are_sent_on() -> None:
    assert write("base", adapters="hushi", top_k=5) == write("hushi", top_k=5)
    assert write("base", extra_body={"adapters": "hushi"}) == write("hushi")


def test_several_answers_with_logprobs() -> None:
    answer = litellm.completion(**options(n=2, logprobs=True, top_logprobs=2))
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) == 2
    for choice, text in zip(answer.choices, texts, strict=True):
        assert "".join(entry.token for entry in choice.logprobs.content) == text


class Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    mood: Literal["静", "悲", "喜"]
    score: int = Field(ge=0, le=10)


def test_json_follows_a_pydantic_model_and_a_schema() -> None:
    assert Verdict.model_validate_json(write("base", response_format=Verdict, max_tokens=60))
    schema = {"name": "verdict", "schema": Verdict.model_json_schema(), "strict": True}
    wanted = {"type": "json_schema", "json_schema": schema}
    assert Verdict.model_validate_json(write("hushi", response_format=wanted, max_tokens=60))
    streamed = litellm.completion(**options(response_format=Verdict, max_tokens=60, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
    assert Verdict.model_validate(json.loads(text))


def test_the_older_completions() -> None:
    wanted: dict[str, Any] = {"prompt": "床前明月光，", "max_tokens": 12, "seed": 3}
    model = "text-completion-openai/libai"
    whole = litellm.text_completion(model=model, **wanted).choices[0].text
    assert whole
    stream = litellm.text_completion(model=model, stream=True, **wanted)
    assert "".join(chunk.choices[0].text or "" for chunk in stream) == whole


def test_errors_are_told_apart() -> None:
    with pytest.raises(litellm.NotFoundError, match="nobody"):
        write("nobody")
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        write(temperature=3)
    with pytest.raises(litellm.AuthenticationError):
        write(api_key="wrong")
    with pytest.raises(litellm.ContextWindowExceededError):
        write(messages=[{"role": "user", "content": "河" * 9000}])
