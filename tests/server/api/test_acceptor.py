"""A flood of connections: who asks for health is answered at once, the others bit by bit."""

import asyncio
import resource
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from verse_server import acceptor, serving
from verse_server.acceptor import Acceptor, bind

pytestmark = pytest.mark.anyio

HALF = b"POST /v1/chat/completions HTTP/1.1\r\n"
HEAD = HALF + b"Host: localhost\r\n\r\n"
NUM_MANY = 150


class Server(asyncio.Protocol):
    """Answers with what came, and adds its connection to those that were begun."""

    def __init__(self, begun: list[asyncio.Transport]) -> None:
        self.begun = begun

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.begun.append(transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"seen " + data)


@asynccontextmanager
async def listening(
    max_waiting: int = 1000,
) -> AsyncGenerator[tuple[int, list[asyncio.Transport]], None]:
    """The port, and the connections that were begun, in order."""
    begun: list[asyncio.Transport] = []
    with bind("127.0.0.1", 0) as sock:
        listener = Acceptor(sock, lambda: Server(begun), max_waiting)
        try:
            yield sock.getsockname()[1], begun
        finally:
            listener.close()
            await listener.wait_closed()
            for transport in begun:
                transport.abort()
            await asyncio.sleep(0)


def connected(port: int, sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(sent)
    connection.setblocking(False)
    return connection


async def answer(connection: socket.socket) -> bytes:
    async with asyncio.timeout(120):
        return await asyncio.get_running_loop().sock_recv(connection, 1000)


@pytest.mark.parametrize("with_libc", [True, False])
async def test_health_is_not_behind_a_flood(
    monkeypatch: pytest.MonkeyPatch, with_libc: bool
) -> None:
    if not with_libc:  # as on other systems
        monkeypatch.setattr(acceptor, "_libc", None)
    monkeypatch.setattr(acceptor, "_CONNECTION_SECONDS", 60.0)
    async with listening() as (port, begun):
        flood = [connected(port, HEAD) for _ in range(NUM_MANY)]
        probe = connected(port, b"GET /health HTTP/1.1\r\n")
        assert (await answer(probe)).startswith(b"seen GET /health")
        assert len(begun) < NUM_MANY, "all were begun, so there is nothing to be behind of"
        for connection in (*flood, probe):
            connection.close()


async def test_health_may_be_asked_for_some_time_after_connecting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(acceptor, "_CONNECTION_SECONDS", 60.0)
    async with listening() as (port, _):
        held = [connected(port, b"") for _ in range(NUM_MANY)]
        await asyncio.sleep(0.05)
        held[-1].send(b"GET /health?full HTTP/1.1\r\n")
        assert await answer(held[-1])
        for connection in held:
            connection.close()


@pytest.mark.parametrize("sent", [b"", HALF])
async def test_who_asks_is_not_behind_those_that_have_not_asked_yet(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(acceptor, "_UNSURE_SECONDS", 60.0)
    async with listening() as (port, begun):
        held = [connected(port, sent) for _ in range(NUM_MANY)]
        asking = [connected(port, HEAD) for _ in range(3)]
        for connection in asking:
            assert await answer(connection) == b"seen " + HEAD
        assert len(begun) < NUM_MANY
        if not sent:  # one that asks later is noticed, too
            held[-1].send(HEAD)
            assert await answer(held[-1]) == b"seen " + HEAD
        for connection in (*held, *asking):
            connection.close()


async def test_half_a_request_gets_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "_UNSURE_SECONDS", 1e-6)
    async with listening() as (port, _):
        flood = [connected(port, HALF) for _ in range(NUM_MANY)]
        assert await answer(flood[-1]) == b"seen " + HALF
        for connection in flood:
            connection.close()


async def test_all_others_are_begun_in_their_order() -> None:
    async with listening() as (port, begun):
        flood = [connected(port, HEAD) for _ in range(NUM_MANY)]
        assert await answer(flood[-1]) == b"seen " + HEAD
        ports = [transport.get_extra_info("peername")[1] for transport in begun]
        assert ports == [connection.getsockname()[1] for connection in flood]
        for connection in flood:
            connection.close()


async def test_more_than_may_wait_stay_with_the_system_until_there_is_room() -> None:
    async with listening(max_waiting=5) as (port, _):
        flood = [connected(port, HEAD) for _ in range(NUM_MANY)]
        assert await answer(flood[-1]) == b"seen " + HEAD
        for connection in flood:
            connection.close()


async def test_those_that_have_gone_before_they_were_begun_harm_nobody() -> None:
    async with listening() as (port, _):
        for _ in range(NUM_MANY):
            connected(port, HEAD).close()
        last = connected(port, HEAD)
        assert await answer(last) == b"seen " + HEAD
        last.close()


async def test_without_files_the_next_connections_wait(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acceptor, "_PAUSE_WITHOUT_FILES_SECONDS", 0.05)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with listening() as (port, _):
        held = connected(port, HEAD)
        resource.setrlimit(resource.RLIMIT_NOFILE, (held.fileno() + 1, hard))
        try:
            await asyncio.sleep(0.02)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert await answer(held) == b"seen " + HEAD
        held.close()
    assert "no connection can be accepted" in caplog.text


@pytest.mark.parametrize(
    ("files", "expected"),
    [(100_000, (1024, 2048)), (4096, (1024, 2048)), (2048, (1024, 896)), (1024, (832, 64))],
)
def test_few_files_leave_some_for_connections_that_wait(
    monkeypatch: pytest.MonkeyPatch, files: int, expected: tuple[int, int]
) -> None:
    def limits(*_: object) -> tuple[int, int]:
        return files, files

    monkeypatch.setattr(resource, "getrlimit", limits)
    # A hard limit that is lowered for real stays so, for all tests that follow.
    monkeypatch.setattr(resource, "setrlimit", limits)
    assert serving._allowed_connections(1024) == expected  # pyright: ignore[reportPrivateUsage]
