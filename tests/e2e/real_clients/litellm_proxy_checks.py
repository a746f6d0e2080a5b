"""litellm's proxy in front of the server, asked with the openai SDK.

`OPENAI_BASE_URL` and `OPENAI_API_KEY` name the server behind it.
"""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, ConfigDict, Field

MASTER_KEY = "sk-proxy"
RIVER: Any = [{"role": "user", "content": "河"}]
CONFIG = {
    "model_list": [
        {
            "model_name": "poet",
            "litellm_params": {
                "model": "openai/xuzhimo",
                "api_base": "os.environ/OPENAI_BASE_URL",
                "api_key": "os.environ/OPENAI_API_KEY",
            },
        }
    ],
    "general_settings": {"master_key": MASTER_KEY},
    "litellm_settings": {"num_retries": 0},
}


class Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    mood: Literal["静", "悲", "喜"]
    score: int = Field(ge=0, le=10)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    folder = tmp_path_factory.mktemp("proxy")
    (folder / "config.yaml").write_text(json.dumps(CONFIG), "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("litellm")), "--config", "config.yaml"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_alive(process, f"{address}/health/liveliness", folder / "log")
        with OpenAI(base_url=f"{address}/v1", api_key=MASTER_KEY, max_retries=0) as client:
            yield client
    finally:
        process.terminate()
        process.wait(60)


def wait_until_alive(process: Any, url: str, log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(log.read_text("utf-8", "replace")[-3000:])


def poem(**fields: Any) -> dict[str, Any]:
    return {"model": "poet", "messages": RIVER, "seed": 3, "max_tokens": 12, **fields}


def test_a_poem_is_the_same_whole_and_streamed(proxy: OpenAI) -> None:
    whole = proxy.chat.completions.create(**poem())
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 12
    stream = proxy.chat.completions.create(**poem(stream=True))
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content


def test_a_schema_and_a_tool_are_followed(proxy: OpenAI) -> None:
    parsed = proxy.chat.completions.parse(model="poet", messages=RIVER, response_format=Verdict)
    assert isinstance(parsed.choices[0].message.parsed, Verdict)
    tool: Any = openai.pydantic_function_tool(Verdict, name="judge")
    choice: Any = {"type": "function", "function": {"name": "judge"}}
    answer = proxy.chat.completions.create(**poem(tools=[tool], tool_choice=choice, max_tokens=60))
    (call,) = answer.choices[0].message.tool_calls or [None]
    assert call is not None
    assert call.type == "function"
    assert Verdict.model_validate_json(call.function.arguments)


def test_errors_come_through(proxy: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        proxy.chat.completions.create(**poem(temperature=3))
    with pytest.raises(openai.BadRequestError, match="too long"):
        proxy.chat.completions.create(**poem(messages=[{"role": "user", "content": "河" * 9000}]))
