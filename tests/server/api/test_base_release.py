"""A base that is let go of while a job trains: poems wait, and come again."""

import asyncio

import pytest
from fake_engine import FakeEngine
from wire import CHAT, Connect, chat_body

from verse_server import base_release
from verse_server.base_release import ReleasableEngine
from verse_server.engine.errors import EngineClosedError


@pytest.fixture(autouse=True)
def no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would look through the whole test process."""
    monkeypatch.setattr(base_release, "_collect", lambda: None)


def test_requests_are_told_to_come_back_while_the_base_is_released(connect: Connect) -> None:
    engine = ReleasableEngine(FakeEngine, 1.0)
    client = connect(engine)
    assert client.post(CHAT, json=chat_body()).status_code == 200

    async def ask_meanwhile() -> None:
        async with engine.released():
            answer = await asyncio.to_thread(client.post, CHAT, json=chat_body())
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert "while a job trains" in answer.json()["error"]["message"]
            health = await asyncio.to_thread(client.get, "/health")
            assert health.json()["status"] == "draining"

    asyncio.run(ask_meanwhile())
    assert client.post(CHAT, json=chat_body()).status_code == 200


def test_the_old_engine_is_closed_and_the_new_one_watched() -> None:
    engines: list[FakeEngine] = []

    def start() -> FakeEngine:
        engines.append(FakeEngine())
        return engines[-1]

    engine = ReleasableEngine(start, 1.0)
    deaths: list[int] = []
    engine.on_death(lambda: deaths.append(1))

    async def release() -> None:
        async with engine.released():
            with pytest.raises(EngineClosedError):
                engine.models()
            engine.drain()  # as the server does when it is told to stop
            engine.close()

    asyncio.run(release())
    assert engines[0].draining
    assert len(engines) == 2
    engines[1].die()
    assert deaths == [1]


def test_a_base_comes_back_after_a_job_that_failed() -> None:
    engine = ReleasableEngine(FakeEngine, 1.0)

    async def fail() -> None:
        async with engine.released():
            raise KeyError

    with pytest.raises(KeyError):
        asyncio.run(fail())
    assert engine.health().status == "ok"
