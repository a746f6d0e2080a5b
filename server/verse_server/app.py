"""The HTTP side put together: `create_app(engine, config)` is a Litestar application."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any, cast

from litestar import Litestar, Response, Router
from litestar.config.cors import CORSConfig
from litestar.datastructures import MutableScopeHeaders
from litestar.di import Provide
from litestar.enums import MediaType
from litestar.exceptions import NotFoundException
from litestar.plugins.core import MsgspecDIPlugin
from litestar.routes import HTTPRoute
from litestar.types import (
    LifeSpanReceive,
    LifeSpanScope,
    LifeSpanSend,
    Message,
    Receive,
    Scope,
    Send,
)

from verse_server.api.admission import ApiKeyGuard, require_jobs
from verse_server.api.batch_rows import RowAnswerer
from verse_server.api.batches import BatchesController, BatchRunner
from verse_server.api.columns import ColumnsController
from verse_server.api.completions import ChatController, CompletionsController
from verse_server.api.decisions import DecisionsController, DecisionWriter
from verse_server.api.errors import RequestError, bare_error_response, error_response, handle_error
from verse_server.api.files import FilesController
from verse_server.api.fine_tuning import FineTuningController
from verse_server.api.models import AdaptersController, ModelsController
from verse_server.api.monitoring import HTTP_METRICS, HealthController, MetricsController
from verse_server.api.openapi import API_KEY, openapi_config, record_schemas
from verse_server.api.origins import OriginPolicy, normalized_origin
from verse_server.api.page import PageController
from verse_server.api.request_log import run_logged
from verse_server.api.responses import ResponseArchive, ResponsesController
from verse_server.api.tokenization import TokenizerController, VersionController
from verse_server.api.uploads import UPLOAD_PATH
from verse_server.config import ServerConfig
from verse_server.engine.interface import Engine
from verse_server.jobs.runner import JobRunner
from verse_server.state.folder import ServerState
from verse_server.state.responses import ResponseStore
from verse_server.turns import RequestTurns

_HEALTH = "/health"
_SCHEMA = "/schema"


class VerseApp(Litestar):
    """Litestar, behind what holds for every request, also those that match no route.

    Each gets a log line and an id, and must not come from a web page that is not allowed.
    """

    origins: OriginPolicy
    turns: RequestTurns
    archive: ResponseArchive
    """Closed by whoever runs the application; a lifespan closes it as well."""
    batches: BatchRunner | None
    """Started and stopped by them, too; None without `--jobs`."""

    _describing = threading.Lock()

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

    @staticmethod
    def _get_default_plugins(plugins: list[Any]) -> list[Any]:
        """Without pydantic's, which bring both of its versions into memory: no record is theirs."""
        return [*plugins, MsgspecDIPlugin()]

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            is_read = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
            self.origins.check(scope["headers"], opens_page=is_read and scope["path"] == "/")
        except RequestError as error:
            await bare_error_response(error)(scope, receive, send)
        else:
            if scope["path"] != _HEALTH:
                await self.turns.begin()
            if scope["path"].startswith(_SCHEMA):
                await asyncio.to_thread(self._describe)
            if scope["type"] == "http" and scope["method"] == "OPTIONS":
                send = self._naming_all_methods(scope, send)
            is_upload = scope["path"] == UPLOAD_PATH  # never decoded on the loop
            await super().__call__(scope, receive if is_upload else self.turns.paced(receive), send)

    def _describe(self) -> None:
        """Have Litestar make its document, which takes a quarter of a second, once."""
        with self._describing:
            record_schemas()  # which it asks for on the event loop
            cast(Any, self.plugins.get("OpenAPIPlugin")).provide_openapi_schema()

    def _naming_all_methods(self, scope: Scope, send: Send) -> Send:
        """Litestar's answer to OPTIONS names the methods of the handler that came first alone."""

        async def send_complete(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableScopeHeaders.from_message(message)
                for route in self.routes if "allow" in headers else ():
                    if isinstance(route, HTTPRoute) and route.path_format == scope["path_template"]:
                        headers["Allow"] = ", ".join(sorted(route.methods))
            await send(message)

        return send_complete


async def _never_html(response: Response[Any]) -> Response[Any]:
    """Litestar answers unknown paths below /schema with a page; errors are envelopes here.

    Were it no coroutine, each answer would be sent through a thread and wait for it.
    """
    if response.media_type != MediaType.HTML:
        return response
    return error_response(NotFoundException())


def _cors(origins: Sequence[str]) -> CORSConfig | None:
    if not origins:
        return None
    return CORSConfig(
        allow_origins=[*map(normalized_origin, origins)], expose_headers=["x-request-id"]
    )


def _provided(value: Any) -> Provide:
    """One thing for all who ask for it."""

    def provide() -> Any:
        return value

    return Provide(provide, sync_to_thread=False, use_cache=True)


def _batch_runner(
    engine: Engine, config: ServerConfig, state: ServerState, archive: ResponseArchive
) -> BatchRunner:
    return BatchRunner(
        engine,
        state,
        RowAnswerer(engine, archive),
        # A few more than run at once, so that a row that is done has one to follow it.
        num_at_once=config.engine.max_batch + max(2, config.engine.max_batch // 4),
        max_line_bytes=config.max_body_bytes,
    )


def create_app(
    engine: Engine,
    config: ServerConfig,
    state: ServerState | None = None,
    runner: JobRunner | None = None,
) -> VerseApp:
    """Build the application.

    Args:
        engine: Started by the caller, who also closes it.
        config: What concerns the engine is not read.
        state: What is kept, of a server with `--jobs`; opened and closed by the caller.
        runner: Of the same server; started and stopped by the caller.
    """
    guards = [] if config.api_key is None else [ApiKeyGuard(config.api_key)]
    controllers = [
        *(ColumnsController, DecisionsController),
        *(ChatController, CompletionsController, ResponsesController),
        *(ModelsController, AdaptersController),
    ]
    archive = ResponseArchive(ResponseStore(config.state_folder) if config.store else None)
    security = [API_KEY] if guards else []
    v1 = Router("/v1", route_handlers=controllers, guards=guards, security=security)
    kept = Router(
        "/v1",
        route_handlers=[FilesController, BatchesController, FineTuningController],
        guards=[*guards, require_jobs],
        security=security,
    )
    root = [MetricsController, TokenizerController]
    guarded = Router("/", route_handlers=root, guards=guards, security=security)

    batches = None if state is None else _batch_runner(engine, config, state, archive)
    app = VerseApp(
        route_handlers=[v1, kept, guarded, HealthController, VersionController, PageController],
        dependencies={
            "engine": _provided(engine),
            "store": _provided(state),
            "archive": _provided(archive),
            "batches": _provided(batches),
            "decisions": _provided(DecisionWriter(config.decisions)),
            "runner": _provided(runner),
        },
        exception_handlers={Exception: handle_error},
        after_request=_never_html,
        middleware=[HTTP_METRICS.middleware],
        cors_config=_cors(config.cors_origins),
        request_max_body_size=config.max_body_bytes,
        logging_config=None,
        on_startup=[] if batches is None else [batches.start],
        on_shutdown=[*([] if batches is None else [batches.stop]), archive.close],
        openapi_config=openapi_config(with_api_key=config.api_key is not None),
    )
    app.state["has_jobs"] = state is not None
    app.turns = RequestTurns()
    app.archive = archive
    app.batches = batches
    app.origins = OriginPolicy(
        host=config.host, cors_origins=config.cors_origins, allowed_hosts=config.allowed_hosts
    )
    return app
