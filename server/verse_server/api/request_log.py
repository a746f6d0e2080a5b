"""Every request gets an id, which its answer carries, and a line in the log. No texts, no keys."""

import logging
import random
import time
from contextvars import ContextVar

import msgspec
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Send

_log = logging.getLogger(__name__)
_random = random.Random()


class RequestRecord(msgspec.Struct, kw_only=True):
    """What the log line of one request says; filled in on the way."""

    id: str
    started: float = msgspec.field(default_factory=time.perf_counter)
    method: str = ""
    path: str = ""
    status: int | None = None
    """None until the answer has begun."""
    model: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None
    """The `code` of what went wrong, also when it did after the status was sent."""


_current: ContextVar[RequestRecord] = ContextVar("request_record")


def current_request() -> RequestRecord:
    """The record of the request that is being answered; a blank one outside of any."""
    return _current.get(RequestRecord(id="-"))


def random_digits() -> str:
    """32 hexadecimal ones for an id, which is no secret.

    The system's own random numbers would give the interpreter away, and in a flood of requests it
    takes a while to come back.
    """
    return f"{_random.getrandbits(128):032x}"


async def run_logged(app: ASGIApp, scope: HTTPScope, receive: Receive, send: Send) -> None:
    """Run an ASGI app for one request, with `x-request-id` on its answer and a line in the log."""
    record = RequestRecord(id=f"req_{random_digits()}", method=scope["method"], path=scope["path"])
    token = _current.set(record)
    try:
        await app(scope, receive, _with_id(record, send))
    finally:
        _current.reset(token)
        level = logging.DEBUG if record.path == "/health" else logging.INFO
        _log.log(level, "%s", _line(record, time.perf_counter() - record.started))


def _with_id(record: RequestRecord, send: Send) -> Send:
    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            record.status = message["status"]
            message["headers"] = [*message["headers"], (b"x-request-id", record.id.encode())]
        await send(message)

    return send_with_id


def _line(record: RequestRecord, seconds: float) -> str:
    # A path is the caller's text: it must not be able to forge a line of its own.
    path = record.path if record.path.isprintable() else ascii(record.path)
    parts = [record.method, path[:200], str(record.status), f"{seconds * 1000:.0f}ms", record.id]
    if record.model is not None:
        parts.append(f"model={record.model!r}")
        parts.append(f"tokens={record.prompt_tokens}+{record.completion_tokens}")
    if record.error is not None:
        parts.append(f"error={record.error}")
    return " ".join(parts)
