"""A client that hangs up frees its row at once, in every phase of a request. Real sockets."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any

import pytest
from fake_engine import FakeEngine
from live import live_server, wait_until
from wire import CHAT, chat_body

from verse.prompt import OPEN_ANSWER, FrameOptions, Message, Tool
from verse_server.api.encoding_pool import (
    ENCODING_SHORT,
    LONG_CHARS,
    NUM_SHORT_THREADS,
    encode_beside_the_loop,
)
from verse_server.api.errors import ClientDisconnectedError
from verse_server.api.streaming import until_disconnect
from verse_server.engine.interface import still_wanted
from verse_server.engine.types import Target


def post(address: str, body: dict[str, Any], path: str = CHAT) -> socket.socket:
    """Send a request, and return the connection with nothing read from it."""
    host, port = address.removeprefix("http://").split(":")
    raw = json.dumps(body).encode()
    connection = socket.create_connection((host, int(port)))
    connection.sendall(
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(raw)}\r\n\r\n".encode()
        + raw
    )
    return connection


@pytest.fixture
def slow() -> FakeEngine:
    return FakeEngine(["水"] * 1000, seconds_per_chunk=0.05)


@pytest.fixture
def address(slow: FakeEngine) -> Iterator[str]:
    with live_server(slow) as address:
        yield address


@pytest.mark.parametrize("stream", [False, True])
def test_hanging_up_in_the_middle_frees_the_row(
    slow: FakeEngine, address: str, stream: bool
) -> None:
    connection = post(address, chat_body(stream=stream))
    wait_until(lambda: slow.num_running == 1)
    if stream:
        assert "轻" not in connection.recv(4096).decode(errors="replace")
    connection.close()
    wait_until(lambda: slow.num_closed_early == 1)
    assert slow.num_running == 0


@pytest.mark.parametrize("stream", [False, True])
def test_hanging_up_before_the_first_token_frees_the_row(
    slow: FakeEngine, address: str, stream: bool
) -> None:
    slow.seconds_per_chunk = 600
    connection = post(address, chat_body(stream=stream))
    wait_until(lambda: slow.num_running == 1)
    connection.close()
    wait_until(lambda: slow.num_closed_early == 1)


class Encoding(FakeEngine):
    """One whose encoding of a prompt waits until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.texts_encoded: list[str] = []
        self.go_on = threading.Event()
        self.num_abandoned = 0

    def encode(
        self,
        target: Target,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        options: FrameOptions = OPEN_ANSWER,
    ) -> tuple[int, ...]:
        self.texts_encoded.append(messages[-1].content)
        wait_until(lambda: self.go_on.is_set() or not still_wanted.get()())
        if not still_wanted.get()():
            self.num_abandoned += 1
            raise CancelledError
        return super().encode(target, messages, tools, options)

    def encode_text(self, text: str, *, add_special_tokens: bool = True) -> tuple[int, ...]:
        self.texts_encoded.append(text)
        return super().encode_text(text, add_special_tokens=add_special_tokens)


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_is_encoded_for_those_that_hang_up_while_another_prompt_is(
    stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="verse_server")
    engine = Encoding()
    with live_server(engine) as address:
        busy = [post(address, chat_body()) for _ in range(NUM_SHORT_THREADS)]
        wait_until(lambda: engine.texts_encoded == ["河"] * NUM_SHORT_THREADS)
        asked = {"model": "base", "prompt": "月", "stream": stream}
        leavers = [
            post(address, chat_body(stream=stream, messages=[{"role": "user", "content": "山"}])),
            post(address, asked, "/v1/completions"),
        ]
        wait_until(lambda: ENCODING_SHORT._work_queue.qsize() == 2)
        for leaver in leavers:
            leaver.close()
        wait_until(lambda: caplog.text.count("error=client_disconnected") == 2)
        engine.go_on.set()
        for connection in busy:
            assert b"200 OK" in connection.recv(65536)
            connection.close()
    assert engine.texts_encoded == ["河"] * NUM_SHORT_THREADS
    assert len(engine.requests) == NUM_SHORT_THREADS


def test_one_that_hangs_up_while_its_own_prompt_is_encoded_ends_that_work() -> None:
    engine = Encoding()
    with live_server(engine) as address:
        leaver = post(address, chat_body())
        wait_until(lambda: engine.texts_encoded == ["河"])
        leaver.close()
        wait_until(lambda: engine.num_abandoned == 1)
    assert engine.requests == []


@pytest.mark.parametrize("long", [False, True])
def test_a_long_text_that_is_encoded_keeps_no_short_one_waiting(long: bool) -> None:
    num_chars = LONG_CHARS + 1 if long else LONG_CHARS
    hold = threading.Event()

    async def scenario() -> str:
        blocked = [
            asyncio.create_task(encode_beside_the_loop(lambda: hold.wait(60), num_chars))
            for _ in range(NUM_SHORT_THREADS)
        ]
        await asyncio.sleep(0.05)
        short = asyncio.create_task(encode_beside_the_loop(lambda: "short", 1))
        await asyncio.wait([short], timeout=60 if long else 0.05)
        done = "done" if short.done() else "waits"
        hold.set()
        await asyncio.gather(short, *blocked)
        return done

    assert asyncio.run(scenario()) == ("done" if long else "waits")


def test_one_that_hangs_up_does_not_disturb_the_others(slow: FakeEngine, address: str) -> None:
    leaver = post(address, chat_body(stream=True))
    wait_until(lambda: slow.num_running == 1)
    slow.texts = ("水",) * 20
    stayer = post(address, chat_body())
    wait_until(lambda: len(slow.requests) == 2)
    leaver.close()
    assert b"200 OK" in stayer.recv(65536)
    stayer.close()
    wait_until(lambda: slow.num_closed_early == 1)


@pytest.mark.perf
def test_hanging_up_is_noticed_within_a_second(slow: FakeEngine, address: str) -> None:
    slow.seconds_per_chunk = 600
    connection = post(address, chat_body(stream=True))
    wait_until(lambda: slow.num_running == 1)
    connection.close()
    wait_until(lambda: slow.num_closed_early == 1, seconds=1.0)


def test_a_client_that_reads_nothing_still_frees_its_row_when_it_goes(
    slow: FakeEngine, address: str
) -> None:
    slow.texts = ("水" * 100_000,) * 1000
    slow.seconds_per_chunk = 0.001
    connection = post(address, chat_body(stream=True))
    wait_until(lambda: slow.num_running == 1)
    connection.close()
    wait_until(lambda: slow.num_closed_early == 1)


def test_the_log_and_the_server_survive_a_client_that_leaves_while_it_sends(
    slow: FakeEngine, address: str
) -> None:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{{".encode()
        )
    slow.texts = ("水",)
    follower = post(address, chat_body())
    assert b"200 OK" in follower.recv(65536)
    follower.close()


async def _hang_up_after(seconds: float) -> Any:
    await asyncio.sleep(seconds)
    return {"type": "http.disconnect"}


def test_a_disconnect_cancels_the_block_and_nothing_after_it() -> None:
    async def scenario() -> str:
        with pytest.raises(ClientDisconnectedError):
            async with until_disconnect(lambda: _hang_up_after(0.01)):
                await asyncio.sleep(60)
        await asyncio.sleep(0)
        return "still running"

    assert asyncio.run(scenario()) == "still running"


def test_a_cancellation_from_elsewhere_stays_one() -> None:
    async def scenario() -> None:
        async with until_disconnect(lambda: _hang_up_after(60)):
            await asyncio.sleep(60)

    async def cancelled() -> None:
        task = asyncio.create_task(scenario())
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())


def test_a_block_that_ends_first_is_left_alone() -> None:
    async def scenario() -> int:
        async with until_disconnect(lambda: _hang_up_after(0.01)):
            pass
        await asyncio.sleep(0.05)
        return len(asyncio.all_tasks())

    assert asyncio.run(scenario()) == 1
