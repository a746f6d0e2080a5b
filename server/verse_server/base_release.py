"""An engine that lets go of its base while a training needs the memory, and loads it again.

Meanwhile whoever asks for a poem is told 503 and when to come back; `/health` says `draining`.
"""

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from verse_server.engine.errors import EngineClosedError
from verse_server.engine.interface import Engine
from verse_server.engine.types import BaseInfo, EngineStats, Health

_POLL_SECONDS = 0.05
_NOTHING = EngineStats(
    adapter_loads=0, adapter_evictions=0, prefix_cache_bytes=0, memory_bytes=0, peak_memory_bytes=0
)


class ReleasableEngine:
    """Hands everything on to an engine, while there is one."""

    def __init__(self, start: Callable[[], Any], drain_seconds: float) -> None:
        """Start the engine.

        Args:
            start: Makes a `serving.ServedEngine`; called again whenever the base comes back.
            drain_seconds: How long running poems may go on when it is let go of.
        """
        self._start = start
        self._drain_seconds = drain_seconds
        self._engine: Any = start()
        self._base: BaseInfo = self._engine.base
        self._on_death: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        """Of the engine.

        Raises:
            EngineClosedError: the base is released.
        """
        engine = self._engine
        if engine is None:
            raise EngineClosedError(
                "The base model is released while a job trains; send the request again later."
            )
        return getattr(engine, name)

    @property
    def base(self) -> BaseInfo:
        """The base that is served, also while it is released."""
        return self._base

    def health(self) -> Health:
        """A snapshot."""
        if self._engine is None:
            return Health(status="draining", running=0, waiting=0, resident_adapters=0)
        return self._engine.health()

    def stats(self) -> EngineStats:
        """Counts; those of an engine that is gone are gone with it."""
        return _NOTHING if self._engine is None else self._engine.stats()

    def on_death(self, callback: Callable[[], None]) -> None:
        """Call back if the engine breaks for good, whichever one it is by then."""
        self._on_death = callback
        if self._engine is not None:
            self._engine.on_death(callback)

    def drain(self) -> None:
        """Take no new work."""
        if self._engine is not None:
            self._engine.drain()

    def close(self) -> None:
        """Stop, if there is anything to stop."""
        if self._engine is not None:
            self._engine.close()

    @asynccontextmanager
    async def released(self) -> AsyncGenerator[None]:
        """Run a block without the base: what runs is finished, its memory given back."""
        self._engine.drain()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._drain_seconds
        while _is_busy(self._engine) and loop.time() < until:  # noqa: ASYNC110  (no event for it)
            await asyncio.sleep(_POLL_SECONDS)
        engine, self._engine = self._engine, None
        try:
            await asyncio.to_thread(engine.close)
            del engine
            await asyncio.to_thread(_collect)
            yield
        finally:
            self._engine = await asyncio.to_thread(self._start)
            self._engine.on_death(self._on_death)


def _is_busy(engine: Engine) -> bool:
    health = engine.health()
    return health.status != "dead" and health.running + health.waiting > 0


def _collect() -> None:
    """What the start has made was kept from ever being looked at again; now it is to go."""
    gc.unfreeze()
    gc.collect()
    from verse_server.engine.memory import give_memory_back  # mlx is there by now

    give_memory_back()
