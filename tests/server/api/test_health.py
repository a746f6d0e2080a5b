"""Probes go by the status; people read the rest."""

from typing import Literal

import pytest
from fake_engine import FakeEngine
from wire import Connect

from verse_server.engine.types import Health


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
