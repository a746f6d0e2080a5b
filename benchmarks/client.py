"""A client so lean that it leaves the cores to the servers.

The load it makes is part of what is measured, since it runs on the same machine. It speaks just
enough HTTP for the two servers here: one connection for each request, the answer until its end.
"""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None


class _Details(msgspec.Struct):
    cached_tokens: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Details | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None


_decoder = msgspec.json.Decoder(_Event)

STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
"""Fields of a body whose answer comes token by token."""


@dataclass
class Answer:
    """What came back, and when."""

    started: float = field(default_factory=time.perf_counter)
    times: list[float] = field(default_factory=list[float])
    """When each piece of text came, in seconds of `time.perf_counter`."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def first_text_seconds(self) -> float:
        """From the request to its first piece of text."""
        return self.times[0] - self.started

    def take(self, line: bytes, at: float | None = None) -> None:
        """One line of the answer's body, which came just now or at a time that is known."""
        text = line.removeprefix(b"data: ")
        if not text.startswith(b"{"):  # a header, the size of a chunk, [DONE] or nothing
            return
        event = _decoder.decode(text)
        if any(choice.delta and choice.delta.content for choice in event.choices):
            self.times.append(time.perf_counter() if at is None else at)
        if event.usage:
            self.prompt_tokens = event.usage.prompt_tokens
            self.completion_tokens = event.usage.completion_tokens
            if event.usage.prompt_tokens_details:
                self.cached_tokens = event.usage.prompt_tokens_details.cached_tokens


def chat_request(body: dict[str, Any]) -> bytes:
    """A request as it goes over the wire."""
    payload = msgspec.json.encode(body)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


async def ask(port: int, body: dict[str, Any], answer: Answer | None = None) -> Answer:
    """Send a chat request and read its answer to the end.

    Args:
        port: Of a server on this machine.
        body: Its JSON.
        answer: Filled while the answer comes in, for who wants to watch.
    """
    answer = answer or Answer()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(chat_request(body))
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"{status.decode().strip()}: {(await reader.read()).decode()}")
        async for line in reader:
            answer.take(line)
    finally:
        writer.close()
    return answer


async def ask_all(port: int, bodies: Iterable[dict[str, Any]], num_streams: int) -> list[Answer]:
    """Send many requests, so many at a time: a closed loop without pauses."""
    queue = iter(bodies)

    async def stream() -> list[Answer]:
        return [await ask(port, body) for body in queue]

    answers = await asyncio.gather(*(stream() for _ in range(num_streams)))
    return [answer for of_stream in answers for answer in of_stream]
