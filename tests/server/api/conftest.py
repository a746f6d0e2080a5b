"""Fixtures of the API tests. The modules that the tests import stand beside this file."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
from litestar import Litestar
from litestar.testing import TestClient

sys.path.insert(0, str(Path(__file__).parent))

from fake_engine import FakeEngine
from wire import ADDRESS, Connect

from verse_server.app import VerseApp, create_app
from verse_server.config import ServerConfig
from verse_server.turns import RequestTurns


class StandInEngine:
    """What one application is built over; answers as the engine of the test that runs."""

    engine: FakeEngine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


@cache
def usual_app() -> tuple[VerseApp, StandInEngine]:
    """Of the usual configuration, made once: Litestar takes longer to build it than to answer."""
    engine = StandInEngine()
    return create_app(cast(FakeEngine, engine), ServerConfig()), engine


def shared_app(engine: FakeEngine) -> VerseApp:
    app, stand_in = usual_app()
    stand_in.engine, app.turns = engine, RequestTurns()
    return app


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """A client of an app over a given engine, closed when the test ends."""
    made: list[FakeEngine] = []
    with ExitStack() as stack:

        def connect_to(
            engine: FakeEngine, config: ServerConfig | None = None
        ) -> TestClient[Litestar]:
            is_usual = config is None and not made
            app = shared_app(engine) if is_usual else create_app(engine, config or ServerConfig())
            made.append(engine)
            return stack.enter_context(TestClient[Litestar](app, base_url=ADDRESS))

        yield connect_to


@pytest.fixture
def client(engine: FakeEngine, connect: Connect) -> TestClient[Litestar]:
    return connect(engine)
