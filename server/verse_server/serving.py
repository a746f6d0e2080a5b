"""Runs the application: a socket bound before the model loads, a drain on Ctrl-C, an exit code.

    0         stopped by SIGINT or SIGTERM; what ran was finished, or cut off after `drain_seconds`
    1         the engine died, or hangs
    2         never started (`StartupError`; the command prints it)
    128 + n   stopped at once by a second signal n

Nothing here knows mlx: the engine comes in started.
"""

import asyncio
import gc
import os
import resource
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Protocol, cast

import uvicorn

from verse_server.acceptor import BACKLOG, Acceptor
from verse_server.app import create_app
from verse_server.base_release import ReleasableEngine
from verse_server.config import ServerConfig
from verse_server.crowd_selector import CrowdSelector
from verse_server.engine.interface import Engine
from verse_server.http_protocol import ConnectionLimits, LimitedProtocol
from verse_server.jobs.runner import JobBase, JobRunner
from verse_server.state.folder import ServerState

_OTHER_FILES = 128
_MIN_WAITING = 64
_SWITCH_SECONDS = 0.0005
"""How long a thread may keep the interpreter while another waits. A step of the model asks for it
a dozen times, and with Python's 5 ms each a busy event loop would make a step four times as long.
"""
_FULL_COLLECTION_AFTER = 200
"""Collections of what is young; Python's own number is 10."""
_DEAD_SECONDS = 1.0
"""How long a server whose engine is dead says so."""
_POLL_SECONDS = 0.05
_KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep an idle connection, so that none closes under a request on its way."""
_GRACE_SECONDS = 5
"""How long answers may take to go out once the engine has nothing more to say."""


class ServedEngine(Engine, Protocol):
    """An engine and its life cycle."""

    def drain(self) -> None:
        """Take no new work; what runs goes on."""
        ...

    def close(self) -> None:
        """Stop; whatever still runs gets an `EngineClosedError`. May block for a step."""
        ...

    def on_death(self, callback: Callable[[], None]) -> None:
        """Call back, from any thread, if the engine breaks for good."""
        ...


def run(
    engine: ServedEngine,
    config: ServerConfig,
    sock: socket.socket,
    state: ServerState | None = None,
) -> int:
    """Serve until told to stop, and close the engine.

    Args:
        engine: Started; closed at the end.
        config: How to serve.
        sock: From `bind`.
        state: Of a server with `--jobs`; the caller closes it.

    Returns:
        The exit code of the process.
    """
    crowd = CrowdSelector() if hasattr(select, "epoll") else None
    serving = _Serving(engine, config, state, crowd)
    _share_interpreter()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(crowd)) as runner:
        return runner.run(serving.run(sock))


def _share_interpreter() -> None:
    """Keep what Python does for itself from making running streams wait.

    What the start has made stays for good. A collection that looked through it all would stop
    every thread for 0.1 s, now and then, and whenever a request brings many objects. So would one
    through what a thousand requests hold while they wait: all is looked through seldom, and when
    the engine rests (`engine.memory`).
    """
    gc.freeze()
    gc.enable()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _FULL_COLLECTION_AFTER)
    sys.setswitchinterval(_SWITCH_SECONDS)


def make_server(
    app: Any, config: ServerConfig, crowd: CrowdSelector | None = None
) -> uvicorn.Server:
    """A uvicorn that leaves signals alone, logs no requests of its own, and has limits."""
    max_connections, max_waiting = _allowed_connections(config.max_connections)
    limits = ConnectionLimits(
        header_bytes=config.max_header_bytes,
        header_seconds=config.header_seconds,
        body_seconds=config.body_seconds,
        upload_seconds=config.upload_seconds,
        max_connections=max_connections,
    )
    return _Server(
        (max_waiting, crowd),
        uvicorn.Config(
            app,
            http=cast(Any, partial(LimitedProtocol, limits=limits, idle={})),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        ),
    )


def _allowed_connections(wanted: int) -> tuple[int, int]:
    """How many connections there may be, and how many more may wait to be begun.

    As many as there may be files open, with some left for the files of models and adapters.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = wanted + BACKLOG + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < enough:
        soft = enough if hard == resource.RLIM_INFINITY else min(enough, hard)
        with suppress(ValueError, OSError):  # macOS allows fewer than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted, BACKLOG
    left = soft - _OTHER_FILES
    connections = max(1, min(wanted, left - _MIN_WAITING))
    return connections, max(1, min(BACKLOG, left - connections))


class _Server(uvicorn.Server):
    def __init__(self, waiting: tuple[int, CrowdSelector | None], config: uvicorn.Config) -> None:
        super().__init__(config)
        self._waiting = waiting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does, but that an `Acceptor` stands before each socket."""
        await super().startup(sockets=[])
        self.servers = cast(
            Any, [Acceptor(sock, self._protocol, *self._waiting) for sock in sockets or ()]
        )

    def _protocol(self) -> asyncio.Protocol:
        make = cast(Any, self.config.http_protocol_class)
        return make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Uvicorn would stop accepting at the first signal; `_Serving` drains first."""
        yield


def make_runner(engine: Engine, config: ServerConfig, state: ServerState) -> JobRunner:
    """What trains for the clients of a server."""
    info = engine.base
    base = JobBase(
        model=config.engine.model,
        id=info.id,
        bytes=info.bytes,
        num_parameters=info.num_parameters,
        adapters=config.engine.adapters,
    )
    release = engine.released if isinstance(engine, ReleasableEngine) else None
    return JobRunner(state, base, release_base=release)


class _Serving:
    def __init__(
        self,
        engine: ServedEngine,
        config: ServerConfig,
        state: ServerState | None,
        crowd: CrowdSelector | None,
    ) -> None:
        self._engine = engine
        self._drain_seconds = config.drain_seconds
        self._runner = None if state is None else make_runner(engine, config, state)
        self._app = create_app(engine, config, state, self._runner)
        self._server = make_server(self._app, config, crowd)
        self._draining: asyncio.Task[None] | None = None
        self._exit_code = 0

    async def run(self, sock: socket.socket) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        self._engine.on_death(lambda: self._tell_death(loop))
        if self._engine.health().status == "dead":
            self._on_death()
        batches = self._app.batches
        if batches is not None:
            batches.start()
        try:
            if self._runner is not None:
                await self._runner.start()
            await self._server.serve(sockets=[sock])
        finally:
            if batches is not None:
                await batches.stop()
            if self._runner is not None:
                await self._runner.stop()
            await asyncio.to_thread(self._app.archive.close)
        return self._exit_code

    def _on_signal(self, number: int) -> None:
        if self._draining is not None:
            os._exit(128 + number)
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        """Let running poems finish, while new requests are accepted and told 503."""
        self._engine.drain()
        if self._app.batches is not None:
            await self._app.batches.stop()  # the next start goes on with them
        if self._runner is not None:
            self._runner.interrupt()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_seconds):
                while self._is_busy():  # noqa: ASYNC110  (the engine's thread has no event for it)
                    await asyncio.sleep(_POLL_SECONDS)
        # What still runs is cut off here, with an error its client can read.
        if not await asyncio.to_thread(_close, self._engine):
            self._exit_code = 1
        self._server.should_exit = True

    def _is_busy(self) -> bool:
        health = self._engine.health()
        return health.status != "dead" and health.running + health.waiting > 0

    def _tell_death(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # the loop is closed: we are going anyway
            loop.call_soon_threadsafe(self._on_death)

    def _on_death(self) -> None:
        """End the process; uvicorn waits for answers on their way, at most `_GRACE_SECONDS`.

        Not at once: whoever asks /health now is told 503, which a closed port would not say.
        """
        self._exit_code = 1
        asyncio.get_running_loop().call_later(_DEAD_SECONDS, self._stop)

    def _stop(self) -> None:
        self._server.should_exit = True


def _close(engine: ServedEngine) -> bool:
    """Close the engine, but do not wait for ever for one that hangs; say whether it ended."""
    thread = threading.Thread(target=engine.close, name="close", daemon=True)
    thread.start()
    thread.join(_GRACE_SECONDS)
    return not thread.is_alive()
