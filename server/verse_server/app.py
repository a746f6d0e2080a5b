"""The HTTP side put together: `create_app(engine, config)` is a Litestar application."""

import asyncio
from collections.abc import Sequence
from typing import Any

from litestar import Litestar, Response, Router
from litestar.config.cors import CORSConfig
from litestar.di import Provide
from litestar.enums import MediaType
from litestar.exceptions import NotFoundException
from litestar.types import (
    HTTPReceiveMessage,
    LifeSpanReceive,
    LifeSpanScope,
    LifeSpanSend,
    Receive,
    Scope,
    Send,
    WebSocketReceiveMessage,
)

from verse_server.api.admission import ApiKeyGuard
from verse_server.api.completions import ChatController, CompletionsController
from verse_server.api.errors import RequestError, bare_error_response, error_response, handle_error
from verse_server.api.models import AdaptersController, ModelsController
from verse_server.api.monitoring import HTTP_METRICS, HealthController, MetricsController
from verse_server.api.openapi import API_KEY, openapi_config
from verse_server.api.origins import OriginPolicy, normalized_origin
from verse_server.api.request_log import run_logged
from verse_server.api.tokenization import TokenizerController, VersionController
from verse_server.config import ServerConfig
from verse_server.engine.interface import Engine

_LARGE_BODY_BYTES = 128 << 10
_LARGE_BODY_SECONDS = 0.04
"""What decoding a megabyte takes at most, and some time for others."""


class LargeBodies:
    """Lets large bodies in one after another, so that others get their turn between them.

    Each is decoded on the event loop. Ten that came at once would hold it ten times as long.
    """

    def __init__(self) -> None:
        self._free_at = 0.0

    def paced(self, receive: Receive) -> Receive:
        """The same body, of which the last part waits for its turn if it is large."""
        num_bytes = 0

        async def receive_paced() -> HTTPReceiveMessage | WebSocketReceiveMessage:
            nonlocal num_bytes
            message = await receive()
            if message["type"] == "http.request":
                num_bytes += len(message["body"])
                if num_bytes > _LARGE_BODY_BYTES and not message["more_body"]:
                    now = asyncio.get_running_loop().time()
                    turn = max(now, self._free_at)
                    self._free_at = turn + _LARGE_BODY_SECONDS
                    await asyncio.sleep(turn - now)
            return message

        return receive_paced


class VerseApp(Litestar):
    """Litestar, behind what holds for every request, also those that match no route.

    Each gets a log line and an id, and must not come from a web page that is not allowed.
    """

    origins: OriginPolicy
    large_bodies: LargeBodies

    async def __call__(
        self,
        scope: Scope | LifeSpanScope,
        receive: Receive | LifeSpanReceive,
        send: Send | LifeSpanSend,
    ) -> None:
        """The ASGI entry point."""
        if scope["type"] == "http":
            await run_logged(self._answer, scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self.origins.check(scope["headers"])
        except RequestError as error:
            await bare_error_response(error)(scope, receive, send)
        else:
            await super().__call__(scope, self.large_bodies.paced(receive), send)


def _never_html(response: Response[Any]) -> Response[Any]:
    """Litestar answers unknown paths below /schema with a page; errors are envelopes here."""
    if response.media_type != MediaType.HTML:
        return response
    return error_response(NotFoundException())


def _cors(origins: Sequence[str]) -> CORSConfig | None:
    if not origins:
        return None
    return CORSConfig(
        allow_origins=[*map(normalized_origin, origins)], expose_headers=["x-request-id"]
    )


def create_app(engine: Engine, config: ServerConfig) -> Litestar:
    """Build the application.

    Args:
        engine: Started by the caller, who also closes it.
        config: What concerns the engine is not read.
    """
    guards = [] if config.api_key is None else [ApiKeyGuard(config.api_key)]
    controllers = [ChatController, CompletionsController, ModelsController, AdaptersController]
    security = [API_KEY] if guards else []
    v1 = Router("/v1", route_handlers=controllers, guards=guards, security=security)
    root = [MetricsController, TokenizerController]
    guarded = Router("/", route_handlers=root, guards=guards, security=security)

    def provide_engine() -> Any:
        return engine

    app = VerseApp(
        route_handlers=[v1, guarded, HealthController, VersionController],
        dependencies={"engine": Provide(provide_engine, sync_to_thread=False, use_cache=True)},
        exception_handlers={Exception: handle_error},
        after_request=_never_html,
        middleware=[HTTP_METRICS.middleware],
        cors_config=_cors(config.cors_origins),
        request_max_body_size=config.max_body_bytes,
        logging_config=None,
        openapi_config=openapi_config(with_api_key=config.api_key is not None),
    )
    app.large_bodies = LargeBodies()
    app.origins = OriginPolicy(
        host=config.host, cors_origins=config.cors_origins, allowed_hosts=config.allowed_hosts
    )
    return app
