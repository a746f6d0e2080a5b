"""What a request's headers say: whether it may come in, who asks, when it gets its turn.

    Authorization: Bearer KEY           the server's API key, if it has one
    x-verse-priority: batch             runs after everything else, as bulk work should
    x-verse-deadline-seconds: 30        the answer is of no use later

Clients share the batch fairly. Who a client is follows from the `user` field of the request, or
else from its address and program.
"""

import hmac
import math
from collections.abc import Iterable
from typing import Any

import msgspec
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler

from verse_server.api.errors import RequestError

PRIORITY_HEADER = "x-verse-priority"
DEADLINE_HEADER = "x-verse-deadline-seconds"
PRIORITIES = ("normal", "batch")


class ApiKeyGuard:
    """Lets a request through that carries `Authorization: Bearer KEY`.

    The key is kept in bytes and shown nowhere: not in `repr`, not in errors, not in the log.
    """

    def __init__(self, api_key: str) -> None:
        self._expected = api_key.strip().encode(errors="surrogateescape")

    async def __call__(
        self,
        connection: ASGIConnection[Any, Any, Any, Any],
        _handler: BaseRouteHandler,
    ) -> None:
        """Litestar's guard.

        Raises:
            RequestError: 401, the key is missing or another one.
        """
        scope = connection.scope
        if scope["type"] == "http" and scope["method"] == "OPTIONS":
            return  # a browser's preflight carries no key
        if not hmac.compare_digest(_bearer_token(scope["headers"]), self._expected):
            raise RequestError(
                "Incorrect or missing API key; send the server's key as "
                "'Authorization: Bearer KEY'.",
                status=401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


def _bearer_token(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    value = next((value for name, value in headers if name == b"authorization"), b"")
    scheme, _, token = value.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def require_jobs(
    connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler
) -> None:
    """A guard for what a server does only with `--jobs`.

    Raises:
        RequestError: 403, it was started without.
    """
    if not connection.app.state.get("has_jobs"):
        raise RequestError(
            "Files, jobs and batches are off on this server; start it with `verse serve --jobs`.",
            status=403,
            code="jobs_disabled",
        )


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """When a request gets its turn."""

    client: str = ""
    """Address and program; the `user` of a body goes before it."""
    is_batch: bool = False
    max_seconds: float | None = None


def read_admission(request: Request[Any, Any, Any]) -> Admission:
    """Read the headers.

    Raises:
        RequestError: a header means nothing.
    """
    headers = request.headers
    peer = request.client.host if request.client else ""
    return Admission(
        client=f"{peer} {headers.get('user-agent', '')}",
        is_batch=_priority(headers.get(PRIORITY_HEADER, "normal")) == "batch",
        max_seconds=_seconds(headers.get(DEADLINE_HEADER)),
    )


def _priority(value: str) -> str:
    if value.strip().lower() not in PRIORITIES:
        raise RequestError(
            f"The header {PRIORITY_HEADER} must be 'normal' or 'batch'.", param=PRIORITY_HEADER
        )
    return value.strip().lower()


def _seconds(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise RequestError(
            f"The header {DEADLINE_HEADER} must be a number of seconds above 0.",
            param=DEADLINE_HEADER,
        )
    return seconds
