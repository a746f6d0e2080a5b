"""The server's own page may use it; nobody else's can pass for it."""

from typing import Any

import pytest
from fake_engine import FakeEngine
from wire import CHAT, Client, Connect, chat_body

from verse_server.config import ServerConfig

OWN = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


def post(client: Client, host: str, origin: str, **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    headers = {"host": host, "origin": origin, **OWN, **named}
    return client.post(CHAT, json=chat_body(), headers=headers).status_code


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000", "LocalHost:8000", "localhost"]
)
def test_its_own_page_may_post(client: Client, engine: FakeEngine, host: str) -> None:
    assert post(client, host, f"http://{host.lower()}") == 200
    assert len(engine.requests) == 1


def test_the_usual_port_may_be_left_out(client: Client) -> None:
    assert post(client, "localhost:80", "http://localhost") == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://127.0.0.1:9000",
        "http://localhost:8000",
        "https://127.0.0.1:8000",
        "http://127.0.0.1",
        "http://127.0.0.1:8000.evil.example",
        "http://evil.example/127.0.0.1:8000",
        "null",
    ],
)
def test_a_page_of_another_origin_is_refused_whatever_else_it_says(
    client: Client, engine: FakeEngine, origin: str
) -> None:
    assert post(client, "127.0.0.1:8000", origin) == 403
    assert engine.requests == []


def test_an_origin_that_is_its_own_does_not_excuse_one_that_crosses_sites(client: Client) -> None:
    assert post(client, "localhost", "http://localhost", sec_fetch_site="cross-site") == 403


@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0"])
def test_a_name_that_was_made_to_point_here_is_not_its_own(
    engine: FakeEngine, connect: Connect, bound: str
) -> None:
    client = connect(engine, ServerConfig(host=bound))
    assert post(client, "evil.example:8000", "http://evil.example:8000") == 403
    assert engine.requests == []


def test_neither_is_any_name_because_any_is_answered(engine: FakeEngine, connect: Connect) -> None:
    client = connect(engine, ServerConfig(allowed_hosts=("*",)))
    assert post(client, "evil.example", "http://evil.example") == 403


@pytest.mark.parametrize(
    ("config", "host"),
    [
        ({"host": "0.0.0.0"}, "192.168.1.5:8000"),
        ({"host": "::"}, "[fe80::1]:8000"),
        ({"allowed_hosts": ("poems.example",)}, "poems.example:8000"),
    ],
)
def test_an_address_and_a_name_that_was_allowed_are(
    engine: FakeEngine, connect: Connect, config: dict[str, Any], host: str
) -> None:
    client = connect(engine, ServerConfig(**config))
    assert post(client, host, f"http://{host}") == 200


def test_two_hosts_make_no_origin(client: Client) -> None:
    headers = [("host", "localhost"), ("host", "127.0.0.1"), ("origin", "http://localhost")]
    answer = client.post(CHAT, json=chat_body(), headers=headers)
    assert answer.status_code == 403


def test_a_link_on_another_site_opens_the_page_and_nothing_else(client: Client) -> None:
    assert client.get("/", headers=LINK).status_code == 200
    for path in ("/v1/models", "/health", "/page/page.js"):
        assert client.get(path, headers=LINK).status_code == 403, path
    frame = LINK | {"sec-fetch-dest": "iframe"}
    assert client.get("/", headers=frame).status_code == 403
    script = LINK | {"sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"}
    assert client.get("/", headers=script).status_code == 403
    assert client.post("/", headers=LINK).status_code == 403
    assert client.get("/", headers=LINK | {"host": "evil.example"}).status_code == 403
