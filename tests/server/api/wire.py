"""Short spellings of what the tests send and receive."""

from collections.abc import Callable
from typing import Any

import msgspec
from litestar import Litestar
from litestar.testing import TestClient

CHAT = "/v1/chat/completions"
ADDRESS = "http://127.0.0.1:8000"
"""What a client without a socket asks for; the server answers to no other name than this machine's.
"""

Client = TestClient[Litestar]
Connect = Callable[..., Client]
"""Takes an engine, and a config if it matters."""


def chat_body(**fields: Any) -> dict[str, Any]:
    """A smallest request, with fields added or replaced."""
    return {"model": "xuzhimo", "messages": [{"role": "user", "content": "河"}]} | fields


def events(text: str) -> list[Any]:
    """The decoded events of a stream; `[DONE]` stays text."""
    frames = text.split("\n\n")
    assert frames.pop() == "", "a stream ends with a whole event"
    assert all(frame.startswith("data: ") for frame in frames)
    payloads = [frame.removeprefix("data: ") for frame in frames]
    return [p if p == "[DONE]" else msgspec.json.decode(p) for p in payloads]


def stream(client: Client, **fields: Any) -> list[Any]:
    """Ask for a stream and return its events."""
    response = client.post(CHAT, json=chat_body(stream=True, **fields))
    assert response.status_code == 200, response.text
    return events(response.text)


def content(chunks: list[Any]) -> str:
    """The text that the deltas add up to."""
    return "".join(
        choice["delta"].get("content", "")
        for chunk in chunks
        if chunk != "[DONE]"
        for choice in chunk["choices"]
    )
