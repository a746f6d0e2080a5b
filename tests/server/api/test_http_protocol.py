"""What a connection may take, and what HTTP asks for. Real sockets, small limits."""

import json
import re
import socket
import time
from collections.abc import Iterator

import msgspec
import pytest
from fake_engine import FakeEngine
from live import live_server, wait_until
from openai_schemas import ErrorResponse
from wire import CHAT, chat_body

from verse_server.config import ServerConfig

LIMITS = ServerConfig(
    max_header_bytes=4096, header_seconds=0.3, body_seconds=0.3, max_connections=4, api_key="k"
)
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()


def post(headers: bytes = b"", **fields: object) -> bytes:
    body = json.dumps(chat_body(**fields)).encode()
    return POST + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Connections:
    """Opens connections to one server, and closes what is open at the end."""

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("http://").split(":")
        self._address = (host, int(port))
        self.open: list[socket.socket] = []

    def __call__(self, *pieces: bytes) -> socket.socket:
        connection = socket.create_connection(self._address, timeout=60)
        self.open.append(connection)
        for piece in pieces:
            connection.sendall(piece)
        return connection


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def limited() -> ServerConfig:
    return LIMITS


@pytest.fixture
def connect(engine: FakeEngine, limited: ServerConfig) -> Iterator[Connections]:
    with live_server(engine, limited) as address:
        connections = Connections(address)
        yield connections
        for connection in connections.open:
            connection.close()


@pytest.fixture
def patient(engine: FakeEngine) -> Iterator[Connections]:
    """One whose limits are those of every server."""
    with live_server(engine) as address:
        connections = Connections(address)
        yield connections
        for connection in connections.open:
            connection.close()


def everything(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    pieces: list[bytes] = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def one_answer(connection: socket.socket) -> bytes:
    """The next answer with a length, and nothing of what follows."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(1)
    length = int(re.findall(rb"content-length: (\d+)", answer)[0])
    return answer + connection.recv(length, socket.MSG_WAITALL)


def refused(answer: bytes, status: int, code: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"connection: close" in head
    assert msgspec.json.decode(body, type=ErrorResponse).error.code == code


NO_HTTP = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/9.9\r\n\r\n",
    b"hello\r\n\r\n",
    b"GET  HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    POST + b"Content-Length: x\r\n\r\n",
    POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
]


@pytest.mark.parametrize("sent", NO_HTTP, ids=range(len(NO_HTTP)))
def test_what_is_no_http_gets_the_envelope(patient: Connections, sent: bytes) -> None:
    refused(everything(patient(sent)), 400, "invalid_http")


@pytest.mark.parametrize("hosts", [b"", b"Host: localhost\r\nHost: localhost\r\n"])
def test_a_request_without_one_host_is_400(patient: Connections, hosts: bytes) -> None:
    sent = b"GET /health HTTP/1.1\r\n" + hosts + b"\r\n"
    refused(everything(patient(sent)), 400, "invalid_host")


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 5000 + b"\r\n\r\n"],
        [b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: 1\r\n" * 900 + b"\r\n"],
        [b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"],
        [b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ", *[b"x" * 1000] * 8],
        [b"X: " + b"x" * 5000],
    ],
    ids=["header", "headers", "path", "endless", "no http"],
)
def test_large_headers_are_refused_without_a_key(connect: Connections, pieces: list[bytes]) -> None:
    answer = everything(connect(*pieces))
    code = "invalid_http" if pieces[0].startswith(b"X") else "headers_too_large"
    refused(answer, 400 if code == "invalid_http" else 431, code)


def test_the_headers_of_every_request_count_anew(connect: Connections) -> None:
    connection = connect()
    for _ in range(4):
        connection.sendall(HEALTH[:-2] + b"X: " + b"x" * 3000 + b"\r\n\r\n")
        assert one_answer(connection).startswith(b"HTTP/1.1 200")
    connection.sendall(HEALTH[:-2] + b"X: ")
    for _ in range(8):
        connection.sendall(b"x" * 1000)
    refused(everything(connection), 431, "headers_too_large")


def test_a_large_body_is_no_large_header(patient: Connections) -> None:
    answer = patient(post(metadata={"a": "x" * 500}, stop=["停" * 20])).recv(65536)
    assert answer.startswith(b"HTTP/1.1 200")
    body = b'{"model": "xuzhimo", "messages": []}' + b" " * 200_000
    whole = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    assert patient(whole).recv(65536).startswith(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"", None),
        (b"\r\n", None),
        (b"GET /health HTTP/1.1\r\nHost: local", "request_timeout"),
        (POST + b"Authorization: Bearer k\r\nContent-Length: 9\r\n\r\n{", "request_timeout"),
        (
            POST + b"Authorization: Bearer k\r\nTransfer-Encoding: chunked\r\n\r\n",
            "request_timeout",
        ),
    ],
    ids=["nothing", "a line break", "half its headers", "half its body", "no chunk"],
)
def test_a_request_that_does_not_arrive_is_ended(
    connect: Connections, engine: FakeEngine, sent: bytes, code: str | None
) -> None:
    begun = time.monotonic()
    connection = connect(sent)
    answer = b""
    try:
        answer = everything(connection)
    except ConnectionResetError:
        assert code is None
    assert time.monotonic() - begun > 0.25
    if code is None:
        assert answer == b""
    else:
        refused(answer, 408, code)
    assert engine.requests == []


def test_a_body_that_was_refused_before_it_came_does_not_hold_the_connection(
    connect: Connections,
) -> None:
    connection = connect(POST + b"Content-Length: 900\r\n\r\n{")
    assert one_answer(connection).startswith(b"HTTP/1.1 401")
    assert everything(connection) == b""


def test_a_connection_that_waits_gives_way_to_new_ones(connect: Connections) -> None:
    waiting = [connect(*pieces) for pieces in ([b"GET /hea"], [], [HEALTH], [POST]) * 10]
    for _ in range(3):
        assert connect(HEALTH).recv(65536).startswith(b"HTTP/1.1 200")
        answer = everything(connect(post(b"Authorization: Bearer k\r\nConnection: close\r\n")))
        assert answer.startswith(b"HTTP/1.1 200")
    assert len(waiting) == 40


def test_when_all_connections_are_busy_there_is_room_for_health(
    connect: Connections, engine: FakeEngine
) -> None:
    engine.seconds_per_chunk = 600
    for _ in range(4):
        connect(post(b"Authorization: Bearer k\r\n"))
    wait_until(lambda: engine.num_running == 4)
    halves = [connect(b"GET /hea") for _ in range(60)]
    refused(everything(connect(post(b"Authorization: Bearer k\r\n"))), 503, "too_many_connections")
    for _ in range(3):
        answer = everything(connect(HEALTH))
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert b"connection: close" in answer
    assert engine.num_running == 4
    assert len(halves) == 60


@pytest.mark.parametrize("stream", [False, True])
def test_an_old_client_gets_no_chunks(patient: Connections, stream: bool) -> None:
    sent = (
        post(stream=stream).replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Host: localhost\r\n", b"")
    )
    head, _, body = everything(patient(sent)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"transfer-encoding" not in head
    if stream:
        assert body.startswith(b"data: {")
        assert body.endswith(b"data: [DONE]\n\n")
    else:
        assert json.loads(body)["object"] == "chat.completion"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("seconds", [0.0, 0.1])
def test_a_client_that_closes_its_half_gets_its_answer(
    patient: Connections, engine: FakeEngine, stream: bool, seconds: float
) -> None:
    engine.seconds_per_chunk = seconds
    connection = patient(post(stream=stream))
    connection.shutdown(socket.SHUT_WR)
    answer = everything(connection)
    assert b"HTTP/1.1 200" in answer
    assert (b"data: [DONE]" if stream else b"chat.completion") in answer


def test_two_requests_at_once_are_answered_in_their_order(
    patient: Connections, engine: FakeEngine
) -> None:
    engine.seconds_per_chunk = 0.05
    connection = patient(post() + HEALTH)
    connection.shutdown(socket.SHUT_WR)
    answers = everything(connection).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    first, second = answers.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert b"chat.completion" in first
    assert b'"status":"ok"' in second


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_a_wish_for_another_protocol_is_passed_over(
    patient: Connections, caplog: pytest.LogCaptureFixture, protocol: bytes
) -> None:
    wish = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + protocol + b"\r\n"
    answer = one_answer(patient(post(wish + b"HTTP2-Settings: AAEAAEAAAAIAAAAB\r\n")))
    assert answer.startswith(b"HTTP/1.1 200")
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []
