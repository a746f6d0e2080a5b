"""Server-sent events: one response that streams frames and stops when nobody listens."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from litestar.response import Response
from litestar.response.base import ASGIResponse
from litestar.types import HTTPResponseBodyEvent, Receive, Scope, Send

from verse_server.api.disconnect import until_disconnect
from verse_server.api.errors import translate

DONE = b"data: [DONE]\n\n"

_HEADERS = {
    "cache-control": "no-cache",
    # nginx would hold the text back otherwise.
    "x-accel-buffering": "no",
}
_encode = msgspec.json.Encoder().encode


def frame(record: msgspec.Struct) -> bytes:
    """One event. JSON holds no raw line break, so a single `data` line always does."""
    return b"data: " + _encode(record) + b"\n\n"


class EventStream(Response[Any]):
    """Streams frames, then `[DONE]`.

    An error before the first frame is raised, so it becomes a plain HTTP error; a later one becomes
    a last frame `{"error": ...}` with no `[DONE]` after it. The frames are closed in every case.
    """

    def __init__(self, frames: AsyncGenerator[bytes, None]) -> None:
        super().__init__(None)
        self._frames = frames

    def to_asgi_response(self, *_args: Any, **_kwargs: Any) -> ASGIResponse:
        """Called by Litestar."""
        return _ASGIEventStream(self._frames)


class _ASGIEventStream(ASGIResponse):
    _should_set_content_length = False

    def __init__(self, frames: AsyncGenerator[bytes, None]) -> None:
        super().__init__(media_type="text/event-stream", headers=_HEADERS)
        self._frames = frames

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._frames) as frames:
            async with until_disconnect(receive):
                first = await anext(frames)
            await self.start_response(send)
            try:
                async with until_disconnect(receive):
                    await send(_body(first))
                    async for data in frames:
                        await send(_body(data))
                last = DONE
            except Exception as error:  # noqa: BLE001  (the status is sent: this is its only way out)
                last = frame(translate(error).body)
        await send(_body(last, more_body=False))


def _body(data: bytes, *, more_body: bool = True) -> HTTPResponseBodyEvent:
    return {"type": "http.response.body", "body": data, "more_body": more_body}
