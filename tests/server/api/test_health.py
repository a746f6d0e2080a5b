"""Probes go by the status; people read the rest."""

import asyncio
from typing import Literal

import pytest
from fake_engine import FakeEngine
from wire import Connect

from verse_server.app import create_app
from verse_server.config import ServerConfig
from verse_server.engine.types import Health


def test_no_probe_waits_for_a_thread(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect(FakeEngine())
    monkeypatch.delattr(asyncio.BaseEventLoop, "run_in_executor")
    for path in ("/health", "/metrics", "/"):
        assert client.get(path).status_code == 200


def test_the_application_brings_in_no_other_kind_of_records() -> None:
    plugins = create_app(FakeEngine(), ServerConfig()).plugins
    assert not [plugin for plugin in plugins if "pydantic" in type(plugin).__module__]


@pytest.mark.parametrize(
    ("status", "code"), [("ok", 200), ("draining", 503), ("stalled", 503), ("dead", 503)]
)
def test_health_is_200_only_while_new_requests_are_served(
    connect: Connect, status: Literal["ok", "draining", "stalled", "dead"], code: int
) -> None:
    engine = FakeEngine()
    engine.health_override = Health(status=status, running=3, waiting=2, resident_adapters=1)
    response = connect(engine).get("/health")
    assert response.status_code == code
    assert response.json() == {
        "status": status,
        "running": 3,
        "waiting": 2,
        "resident_adapters": 1,
    }
