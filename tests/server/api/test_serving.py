"""The process around the application: its socket, its signals, its exit code."""

import gc
import json
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from fake_engine import FakeEngine
from live import ServedProcess, live_server, served_process, wait_until
from openai_schemas import ErrorResponse
from wire import CHAT, chat_body, content, events

from verse_server import serving
from verse_server.acceptor import BACKLOG, bind
from verse_server.config import ServerConfig
from verse_server.engine.errors import StartupError

# Long enough to send a signal into, short enough to wait for.
WRITING = {"texts": ["水"] * 30, "seconds_per_chunk": 0.1}
ENDLESS = {"texts": ["水"] * 1000, "seconds_per_chunk": 0.05}


def ask(address: str, *, stream: bool = False) -> httpx.Response:
    return httpx.post(address + CHAT, json=chat_body(stream=stream), timeout=60)


def running(server: ServedProcess) -> int:
    return server.health().json()["running"]


def test_a_port_in_use_is_said_in_one_sentence() -> None:
    with bind("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(StartupError, match=rf"port {port} .*in use.*--port"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7"])
def test_an_address_that_is_not_ours_is_said_in_one_sentence(host: str) -> None:
    with pytest.raises(StartupError, match="Cannot listen on"):
        bind(host, 0)


def test_a_server_that_runs_leaves_streams_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    async def run_nothing(*_: object) -> int:
        assert gc.isenabled()
        seen.extend([gc.get_freeze_count(), sys.getswitchinterval(), gc.get_threshold()[2]])
        return 0

    monkeypatch.setattr(serving._Serving, "run", run_nothing)  # pyright: ignore[reportPrivateUsage]
    before, thresholds = sys.getswitchinterval(), gc.get_threshold()
    gc.unfreeze()  # of what the tests have frozen; all of it is again in a moment
    gc.disable()  # as while it starts
    try:
        with bind("127.0.0.1", 0) as sock:
            assert serving.run(FakeEngine(), ServerConfig(), sock) == 0
    finally:
        gc.enable()
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(before)
    num_frozen, seconds, num_young = seen
    assert num_frozen > 10_000, "a collection looks through all that the start has made"
    assert seconds <= 0.001
    assert num_young >= 100, "a flood brings several of all that waits"


def test_whoever_connects_before_the_model_is_loaded_waits_and_is_served() -> None:
    assert BACKLOG >= 128
    engine = FakeEngine()
    with live_server(engine) as address:
        host, port = address.removeprefix("http://").split(":")
        burst = [socket.create_connection((host, int(port)), timeout=60) for _ in range(200)]
        for connection in burst:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for connection in burst:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
            connection.close()


def test_a_connection_is_kept_for_the_next_request_whatever_the_answer() -> None:
    used: set[object] = set()
    with live_server(FakeEngine()) as address, httpx.Client(base_url=address) as client:
        for response in (
            client.post(CHAT, json=chat_body()),
            client.post(CHAT, json=chat_body(stream=True)),
            client.post("/nope", json=chat_body()),
            client.post(CHAT, content=b"{"),
            client.post(CHAT, content=b"x" * (2 << 20)),
            client.head("/health"),
            client.get("/health"),
        ):
            used.add(response.extensions["network_stream"].get_extra_info("client_addr"))
    assert len(used) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_running_poems_finish_and_refuses_new_ones(
    tmp_path: Path, number: signal.Signals
) -> None:
    with (
        served_process(tmp_path, engine=WRITING, config={"drain_seconds": 600}) as server,
        ThreadPoolExecutor(2) as pool,
    ):
        whole = pool.submit(ask, server.address)
        stream = pool.submit(ask, server.address, stream=True)
        wait_until(lambda: running(server) == 2)
        server.signal(number)
        wait_until(lambda: server.health().status_code == 503)

        refused = ask(server.address)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        msgspec.json.decode(refused.content, type=ErrorResponse)

        assert whole.result().json()["choices"][0]["message"]["content"] == "水" * 30
        assert content(events(stream.result().text)) == "水" * 30
        assert server.exit_code() == 0
        assert server.err == ""


def test_an_idle_server_waits_for_nobody(tmp_path: Path) -> None:
    with served_process(tmp_path, engine={}, config={"drain_seconds": 600}) as server:
        assert ask(server.address).status_code == 200
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0


def test_poems_that_take_too_long_are_cut_off_with_an_error_their_client_can_read(
    tmp_path: Path,
) -> None:
    config = {"drain_seconds": 0.3}
    with served_process(tmp_path, engine=ENDLESS, config=config) as server:
        whole, stream_end = both_answers_after(server, signal.SIGTERM)
        assert whole.status_code == 503
        assert stream_end["error"]["code"] == "engine_closed"
        assert server.exit_code() == 0


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with (
        served_process(tmp_path, engine=ENDLESS, config={"drain_seconds": 600}) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        hanging = pool.submit(ask, server.address)
        wait_until(lambda: running(server) == 1)
        server.signal(signal.SIGINT)
        wait_until(lambda: server.health().status_code == 503)
        server.signal(signal.SIGINT)
        assert server.exit_code() == 128 + signal.SIGINT
        assert isinstance(hanging.exception(), httpx.TransportError)


@pytest.mark.slow
def test_an_engine_that_hangs_is_given_up(tmp_path: Path) -> None:
    engine, config = {**ENDLESS, "hangs": True}, {"drain_seconds": 0.1}
    with served_process(tmp_path, engine=engine, config=config, grace_seconds=0.5) as server:
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 1


def test_when_the_engine_dies_waiting_clients_hear_of_it_and_the_process_fails(
    tmp_path: Path,
) -> None:
    with served_process(tmp_path, engine=ENDLESS, config={}) as server:
        whole, stream_end = both_answers_after(server, signal.SIGUSR1)
        assert whole.status_code == 500
        assert stream_end["error"]["code"] == "generation_failed"
        assert server.exit_code() == 1


def both_answers_after(
    server: ServedProcess, number: signal.Signals
) -> tuple[httpx.Response, dict[str, Any]]:
    """Ask for a whole answer and a stream, send the signal in the middle of both, wait for both.

    Returns:
        The whole answer, and the stream's last event.
    """
    body = chat_body(stream=True)
    with (
        ThreadPoolExecutor(1) as pool,
        httpx.stream("POST", server.address + CHAT, json=body, timeout=60) as stream,
    ):
        whole = pool.submit(ask, server.address)
        lines = stream.iter_lines()
        next(lines)
        wait_until(lambda: running(server) == 2)
        server.signal(number)
        last = [line for line in lines if line][-1]
        return whole.result(), json.loads(last.removeprefix("data: "))
