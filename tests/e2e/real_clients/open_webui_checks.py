"""Open WebUI's two calls, replayed: it is far too large to install for a test.

Modelled on backend/open_webui/routers/openai.py, not recorded: the list of models when a connection
is saved, and each chat as a stream with usage and the fields of its own settings. Its task model
asks for titles without a stream. `OPENAI_BASE_URL` and `OPENAI_API_KEY` name the server.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

HEADERS = {
    "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}",
    "Content-Type": "application/json",
    "X-OpenWebUI-User-Name": "li",
    "X-OpenWebUI-User-Id": "6f0a",
    "X-OpenWebUI-User-Role": "user",
}


@pytest.fixture
def connection() -> Iterator[httpx.Client]:
    with httpx.Client(base_url=os.environ["OPENAI_BASE_URL"], headers=HEADERS, timeout=300) as c:
        yield c


def chat(**fields: Any) -> dict[str, Any]:
    return {
        "model": "xuzhimo",
        "messages": [{"role": "user", "content": "河"}],
        "temperature": 0.8,
        "max_tokens": 12,
        **fields,
    }


def test_saving_a_connection_lists_the_models(connection: httpx.Client) -> None:
    answer = connection.get("/models")
    assert answer.status_code == 200
    models = answer.json()["data"]
    assert {"xuzhimo", "hushi"} <= {model["id"] for model in models}
    assert all({"id", "object", "created", "owned_by"} <= set(model) for model in models)


def test_a_chat_is_a_stream_with_usage(connection: httpx.Client) -> None:
    body = chat(
        stream=True, stream_options={"include_usage": True}, seed=3, stop=["###"], top_p=0.9
    )
    with connection.stream("POST", "/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert chunks[-1]["usage"]["completion_tokens"] > 0


def test_a_title_is_asked_for_without_a_stream(connection: httpx.Client) -> None:
    prompt = 'Generate a title. JSON format: { "title": "..." }'
    body = chat(messages=[{"role": "user", "content": prompt}], stream=False)
    body["max_completion_tokens"] = body.pop("max_tokens")
    answer = connection.post("/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
