"""The API key: one secret for all, in the header where OpenAI's clients put it."""

import hmac
from collections.abc import Iterable
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler

from verse_server.api.errors import RequestError


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
