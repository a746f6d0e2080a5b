"""dspy; `OPENAI_BASE_URL` and `OPENAI_API_KEY` name the server."""

# pyright: reportMissingImports=false, reportUntypedBaseClass=false
# The client is not installed with the project; test_clients.py brings it.
import asyncio
import os
from typing import Any, Literal

import dspy
import litellm
import pytest


class Judge(dspy.Signature):
    """Judge the poem."""

    poem: str = dspy.InputField()
    mood: Literal["静", "悲", "喜"] = dspy.OutputField()


def lm(model: str = "xuzhimo", **settings: Any) -> Any:
    address, key = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]
    return dspy.LM(f"openai/{model}", api_base=address, api_key=key, cache=False, **settings)


def test_a_model_writes_a_poem_and_counts_its_tokens() -> None:
    poet = lm(max_tokens=12, seed=3)
    assert poet("河") == poet("河")
    assert poet.history[-1]["usage"]["completion_tokens"] == 12
    assert len(lm(max_tokens=12, n=2)("河")) == 2


def test_a_signature_is_filled_in_by_its_schema() -> None:
    # Its own list of models does not say that ours follow schemas.
    litellm.register_model(
        {"openai/xuzhimo": {"litellm_provider": "openai", "supports_response_schema": True}}
    )
    with dspy.context(lm=lm(max_tokens=400), adapter=dspy.JSONAdapter()):
        assert dspy.Predict(Judge)(poem="河水").mood in ("静", "悲", "喜")

        async def judged() -> Any:
            return await dspy.Predict(Judge).acall(poem="月光")

        assert asyncio.run(judged()).mood in ("静", "悲", "喜")


def test_the_default_adapter_asks_in_words_and_then_for_any_json() -> None:
    """verse-tiny cannot answer in dspy's words; what comes back is dspy's own error, not ours."""
    with (
        dspy.context(lm=lm("hushi", max_tokens=40)),
        pytest.raises(Exception, match="failed to parse") as error,
    ):
        dspy.Predict(Judge)(poem="河水")
    assert type(error.value).__name__ == "AdapterParseError"


def test_a_prompt_that_is_too_long_is_dspy_s_own_error() -> None:
    with pytest.raises(Exception, match="too long") as error:
        lm(max_tokens=12)("河" * 9000)
    assert type(error.value).__name__ == "ContextWindowExceededError"
