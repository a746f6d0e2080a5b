"""simonw's llm, its command line and its library, with the configuration of docs/serve.md.

`LLM_USER_PATH` is the folder that holds it and a key; `OPENAI_BASE_URL` and `OPENAI_API_KEY` name
the server.
"""

# pyright: reportMissingImports=false
# The client is not installed with the project; tests/e2e/test_real_clients.py brings it.
import asyncio
import json
import os
from typing import Any, Literal

import llm
import openai
import pytest
from click.testing import CliRunner, Result
from llm.cli import cli
from pydantic import BaseModel, ConfigDict, Field

ENDPOINT = ("openai", "endpoint", os.environ["OPENAI_BASE_URL"])
ENDPOINT_KEY = ("--key", os.environ["OPENAI_API_KEY"])
SEEDED = ("-o", "seed", "3", "-o", "max_tokens", "12")


class Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    mood: Literal["静", "悲", "喜"]
    score: int = Field(ge=0, le=10)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def printed(*arguments: str) -> str:
    ran = run(*arguments)
    assert ran.exit_code == 0, ran.output
    return ran.stdout.strip()


def write(model: str, **options: Any) -> str:
    return llm.get_model(model).prompt("河", **{"seed": 3, "max_tokens": 12, **options}).text()


def test_an_endpoint_needs_no_configuration() -> None:
    names = printed(*ENDPOINT, *ENDPOINT_KEY, "--models").split()
    assert {"verse-tiny", "xuzhimo", "hushi"} <= set(names)
    poem = printed(*ENDPOINT, *ENDPOINT_KEY, "-m", "xuzhimo", "河", *SEEDED)
    assert poem == write("xuzhimo").strip() != ""


def test_a_seed_writes_the_same_poem_streamed_and_not_and_usage_is_logged() -> None:
    streamed = printed("-m", "xuzhimo", "河", *SEEDED)
    assert printed("-m", "xuzhimo", "河", *SEEDED, "--no-stream") == streamed != ""
    assert printed("-m", "two-poets", "河", *SEEDED) != streamed
    stream, whole = json.loads(printed("logs", "list", "-m", "xuzhimo", "--json", "-n", "2"))
    assert whole["input_tokens"] == stream["input_tokens"] > 0
    assert whole["output_tokens"] == stream["output_tokens"] == 12


def test_a_conversation_goes_on() -> None:
    printed("-m", "xuzhimo", "-s", "写诗", "河", *SEEDED)
    assert printed("-c", "再写一首", *SEEDED)
    first, second = json.loads(printed("logs", "list", "-m", "xuzhimo", "--json", "-n", "2"))
    assert second["conversation_id"] == first["conversation_id"]
    assert second["input_tokens"] > first["input_tokens"] + first["output_tokens"]


def test_several_models_at_once_write_what_each_writes_alone() -> None:
    models = ("xuzhimo", "two-poets")

    async def asked(model: str) -> str:
        return await llm.get_async_model(model).prompt("河", seed=3, max_tokens=12).text()

    async def together() -> list[str]:
        return await asyncio.gather(*(asked(model) for model in models * 2))

    assert asyncio.run(together()) == [write(model) for model in models * 2]


def test_a_schema_is_followed() -> None:
    schema = json.dumps(Verdict.model_json_schema())
    assert Verdict.model_validate_json(printed("-m", "xuzhimo", "河", "--schema", schema))
    answer = llm.get_model("xuzhimo").prompt("河", schema=Verdict)
    assert Verdict.model_validate_json(answer.text())


def test_a_tool_may_be_called() -> None:
    """By `auto`; what verse-tiny writes is a poem, as it has never seen a tool."""
    names: list[str] = []

    def remember(line: str) -> str:
        """Remembers a line."""
        names.append(line)
        return "记下了"

    model = llm.get_model("with-tools")
    answer = model.chain("河", tools=[remember], options={"max_tokens": 12})
    assert answer.text() or names


def test_a_completion_goes_on_with_the_text_itself() -> None:
    assert printed("-m", "libai-goes-on", "床前明月光，", "-o", "max_tokens", "12")
    (entry,) = json.loads(printed("logs", "list", "-m", "libai-goes-on", "--json"))
    assert 0 < len(entry["response"]) <= 12


def test_errors_are_one_sentence_of_the_server() -> None:
    unknown = run(*ENDPOINT, *ENDPOINT_KEY, "-m", "nobody", "河")
    assert unknown.exit_code == 1
    assert "'nobody' does not exist" in unknown.stderr
    stranger = run("-m", "xuzhimo", "河", "--key", "wrong")
    assert stranger.exit_code == 1
    assert "Incorrect or missing API key" in stranger.stderr
    with pytest.raises(openai.BadRequestError, match="token 99999"):
        write("xuzhimo", logit_bias={"99999": 1})
