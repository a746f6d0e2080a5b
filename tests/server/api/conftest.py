"""Fixtures of the API tests. The modules that the tests import stand beside this file."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.testing import TestClient

sys.path.insert(0, str(Path(__file__).parent))

from fake_engine import FakeEngine
from wire import ADDRESS, Connect

from verse_server.app import create_app
from verse_server.config import ServerConfig


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """A client of an app over a given engine, closed when the test ends."""
    with ExitStack() as stack:

        def connect_to(
            engine: FakeEngine, config: ServerConfig | None = None
        ) -> TestClient[Litestar]:
            app = create_app(engine, config or ServerConfig())
            return stack.enter_context(TestClient[Litestar](app, base_url=ADDRESS))

        yield connect_to


@pytest.fixture
def client(engine: FakeEngine, connect: Connect) -> TestClient[Litestar]:
    return connect(engine)
