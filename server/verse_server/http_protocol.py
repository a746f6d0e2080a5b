"""Uvicorn's HTTP connection, with limits and with our error envelope.

What uvicorn leaves open: a request may take for ever to arrive, its headers may be of any size,
connections may be of any number, and what is no HTTP gets a line of plain text. Here:

    431   the headers are larger than `header_bytes`
    408   a request did not arrive in time: its headers in `header_seconds`, its body in
          `body_seconds`; that of an upload in `upload_seconds`, with no such pause in it
    400   what arrives is no HTTP, or a request of HTTP/1.1 has no `Host`, or several
    503   `max_connections` wait for an answer; some more are kept for `/health`

A connection that waits for its client gives way, the oldest first, when there are too many. A
client that closes its own half and waits still gets its answer, and one of HTTP/1.0 gets no chunks.
"""

import asyncio
import logging
import re
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from verse_server.api.errors import Failure
from verse_server.api.uploads import UPLOAD_PATH

_HEALTH = b"/health"
_UPLOADS = UPLOAD_PATH.encode()
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_NUM_KEPT_FOR_HEALTH = 32
_PROBE_SECONDS = (0.02, 0.1, 0.5)
"""How soon after a client closed its half it is looked whether it is gone; the last one repeats."""
_LINGER_SECONDS = 2.0
"""How long a refused client may go on sending, so that it gets to read why it was refused."""
_FLUSH_SECONDS = 30.0
"""How long the end of an answer may take to be read."""

_log = logging.getLogger(__name__)


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection may take, and how many there may be."""

    header_bytes: int = 64 << 10
    header_seconds: float = 30.0
    body_seconds: float = 60.0
    upload_seconds: float = 3600.0
    max_connections: int = 1024


class _RefusedError(Exception):
    """Passes through the parser, which ends there."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


_HEADERS_TOO_LARGE = Failure(431, "The request's headers are too large.", "headers_too_large")
_TOO_SLOW = Failure(408, "The request did not arrive in time; send it again.", "request_timeout")
_NO_HTTP = Failure(400, "This is not a valid HTTP request.", "invalid_http")
_NO_HOST = Failure(400, "The request needs one Host header.", "invalid_host")
_TOO_MANY = Failure(
    503,
    "Too many requests are being answered; try again soon.",
    "too_many_connections",
    headers={"Retry-After": "5"},
)


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self, *args: Any, limits: ConnectionLimits, idle: "dict[LimitedProtocol, None]", **more: Any
    ) -> None:
        """As uvicorn makes it.

        Args:
            args: Uvicorn's own.
            limits: The same for all connections of a server.
            idle: Shared by them: those that wait for their client, the longest-waiting first.
            more: Uvicorn's own.
        """
        super().__init__(*args, **more)
        self._limits = limits
        self._idle = idle
        self._reading = "nothing"
        """Of a request, `headers` or `body`."""
        self._num_header_bytes = 0
        """Of the request that is read, as far as its headers have been parsed."""
        self._num_unparsed_bytes = 0
        """Fed since, in chunks of nothing but headers."""
        self._has_read = False
        """Whether a request has begun on this connection."""
        self._upload_until: float | None = None
        """When an upload that is read must be over."""
        self._timer: asyncio.TimerHandle | None = None
        self._is_refused = False
        self._is_half_closed = False

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Make room if there is none."""
        super().connection_made(transport)
        self._idle[self] = None
        self._set_timer(self._limits.header_seconds, self._on_late)
        num_too_many = len(self.connections) - self._limits.max_connections
        if num_too_many > 0:
            oldest = next(iter(self._idle))
            if oldest is not self or num_too_many > _NUM_KEPT_FOR_HEALTH:
                oldest.transport.abort()
                # Others may come before it has heard of that.
                del self._idle[oldest]
                self.connections.discard(oldest)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._set_timer(None)
        self._idle.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser."""
        if self._is_refused:
            return
        was_reading, is_first = self._reading, not self._has_read
        self._unset_keepalive_if_required()
        if self._timer is None and not self._is_answering:
            self._set_timer(self._limits.header_seconds, self._on_late)
        try:
            parser = cast(httptools.HttpRequestParser, self.parser)
            parser.feed_data(data if self._reading == "body" else _without_upgrade(data))
        except httptools.HttpParserUpgrade:
            pass  # in pieces; answered as what it is without
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause.failure if isinstance(cause, _RefusedError) else _NO_HTTP)
            return
        if self._upload_until is not None and self._reading == "body" and self._is_answering:
            left = self._upload_until - self.loop.time()
            self._set_timer(min(left, self._limits.body_seconds), self._on_late)
        if self._reading == "headers" and (was_reading == "headers" or is_first):
            # A header that does not end is heard of only when it does.
            self._num_unparsed_bytes += len(data)
            if self._num_unparsed_bytes > self._limits.header_bytes:
                self._refuse(_HEADERS_TOO_LARGE)

    def eof_received(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The client closed its half, or all: only answering tells.

        Returns:
            Whether asyncio shall leave our half open.
        """
        if not self._is_answering or self._is_refused or self._reading == "body":
            return False
        self._is_half_closed = True
        self._set_timer(_PROBE_SECONDS[0], partial(self._probe, 0))
        return True

    # What the parser calls

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._has_read = True
        self._reading, self._num_header_bytes, self._num_unparsed_bytes = "headers", 0, 0

    def on_url(self, url: bytes) -> None:
        """A part of the path is here."""
        super().on_url(url)
        self._count_header_bytes(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header is whole."""
        super().on_header(name, value)
        self._count_header_bytes(len(name) + len(value) + len(b": \r\n"))

    def on_headers_complete(self) -> None:
        """A request is accepted, or refused."""
        num_hosts = sum(name == b"host" for name, _ in self.headers)
        version = cast(httptools.HttpRequestParser, self.parser).get_http_version()
        if num_hosts > 1 or (num_hosts == 0 and version != "1.0"):
            raise _RefusedError(_NO_HOST)
        num_busy = len(self.connections) - len(self._idle)
        is_too_many = num_busy >= self._limits.max_connections
        if is_too_many and self.url.partition(b"?")[0] != _HEALTH:
            raise _RefusedError(_TOO_MANY)
        super().on_headers_complete()
        self._reading = "body"
        is_upload = self.url.partition(b"?")[0] == _UPLOADS
        self._upload_until = self.loop.time() + self._limits.upload_seconds if is_upload else None
        self._set_timer(self._limits.body_seconds, self._on_late)
        if is_too_many:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """A request is here."""
        super().on_message_complete()
        self._reading = "nothing"
        self._set_timer(None)
        if self._is_answering:
            self._idle.pop(self, None)

    # Answers

    def on_response_complete(self) -> None:
        """An answer is out."""
        super().on_response_complete()
        if self._is_answering:  # the next request, which is here already
            return
        self._idle[self] = None
        if self._is_refused or self._is_half_closed:
            self.transport.close()
        if self._reading == "headers":
            self._set_timer(self._limits.header_seconds, self._on_late)
        elif self._reading == "nothing" and self.transport.get_write_buffer_size():
            self._set_timer(_FLUSH_SECONDS, self._on_unread)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  (uvicorn names its arguments)
        """Called by uvicorn."""
        self._refuse(_NO_HTTP)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        is_old = cycle.scope["http_version"] == "1.0"
        super()._start_asgi_task(cycle, partial(_without_chunks, app, cycle) if is_old else app)

    @property
    def _is_answering(self) -> bool:
        cycle = cast(RequestResponseCycle | None, self.cycle)
        return cycle is not None and not cycle.response_complete

    def _refuse(self, failure: Failure) -> None:
        """Answer, unless something else is being answered, and read nothing more."""
        self._is_refused = True
        _log.info("- %d error=%s", failure.status, failure.code)
        is_in_body = self._is_answering and self._reading == "body"
        if self.pipeline or (is_in_body and self.cycle.response_started):
            self.transport.abort()
            return
        if is_in_body:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        elif self._is_answering:
            return  # closed when that is out
        body = msgspec.json.encode(failure.body)
        headers = [
            *self.server_state.default_headers,
            *((name.lower().encode(), value.encode()) for name, value in failure.headers.items()),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        lines = [b"%s: %s\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[failure.status], *lines, b"\r\n", body]))
        # Closed at once, with bytes that nobody read, the answer could be lost on its way.
        self.transport.write_eof()
        self._set_timer(_LINGER_SECONDS, self.transport.abort)

    def _count_header_bytes(self, num_bytes: int) -> None:
        self._num_header_bytes += num_bytes
        if self._num_header_bytes > self._limits.header_bytes:
            raise _RefusedError(_HEADERS_TOO_LARGE)

    # Time

    def _set_timer(self, seconds: float | None, function: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if seconds is not None and function is not None:
            self._timer = self.loop.call_later(seconds, function)

    def _on_late(self) -> None:
        """A request has not arrived in time."""
        self._timer = None
        if self.flow.read_paused:  # it waits for what was asked before it
            self._set_timer(self._limits.body_seconds, self._on_late)
        elif self._reading == "nothing" or (self._reading == "body" and not self._is_answering):
            self.transport.abort()
        else:
            self._refuse(_TOO_SLOW)

    def _on_unread(self) -> None:
        if self.transport.get_write_buffer_size() and not self._is_answering:
            self.transport.abort()

    def _probe(self, number: int) -> None:
        """Tell a client that waits from one that is gone: the latter's system refuses what we send.

        What we send is `100 Continue`, which every client of HTTP/1.1 passes over.
        """
        self._timer = None
        if self.transport.is_closing() or not self._is_answering or self.cycle.response_started:
            return  # whoever sends an answer hears of it
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
            return
        if number == 0 and self.cycle.scope["http_version"] != "1.0":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        following = min(number + 1, len(_PROBE_SECONDS) - 1)
        self._set_timer(_PROBE_SECONDS[following], partial(self._probe, following))


def _without_upgrade(data: bytes) -> bytes:
    """The same headers without a wish for another protocol, which a server may pass over.

    The parser would end at it and lose the body. Java's client wishes for HTTP/2 in every request.
    """
    head, blank, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-upgrade:", head) + blank + rest


async def _without_chunks(
    app: Any, cycle: RequestResponseCycle, scope: Any, receive: Any, send: Any
) -> None:
    """Run an app whose answer, if it names no length, ends where the connection does."""
    is_sized = False

    async def send_plain(message: Any) -> None:
        nonlocal is_sized
        if message["type"] == "http.response.start":
            is_sized = any(name.lower() == b"content-length" for name, _ in message["headers"])
            if not is_sized:
                cycle.chunked_encoding = False
        elif not is_sized:
            # Uvicorn counts down to 0.
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    await app(scope, receive, send_plain)
