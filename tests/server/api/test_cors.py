"""Web pages of other origins are kept out unless they are named."""

import pytest
from fake_engine import FakeEngine
from wire import CHAT, Client, Connect, chat_body

from verse_server.config import ServerConfig

PAGE = "https://poems.example"


def preflight(client: Client, origin: str) -> dict[str, str]:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type",
    }
    return dict(client.options(CHAT, headers=headers).headers)


def post(client: Client, origin: str, **headers: str) -> dict[str, str]:
    response = client.post(CHAT, json=chat_body(), headers={"origin": origin, **headers})
    assert response.status_code == 200
    return dict(response.headers)


def test_without_a_list_no_page_is_let_in(client: Client) -> None:
    for headers in (preflight(client, PAGE), post(client, PAGE)):
        assert not [name for name in headers if name.startswith("access-control")]


def test_a_page_on_the_list_is_let_in_and_may_see_the_request_id(
    engine: FakeEngine, connect: Connect
) -> None:
    client = connect(engine, ServerConfig(cors_origins=(PAGE, "http://b.example"), api_key="k"))
    allowed = preflight(client, PAGE)
    assert allowed["access-control-allow-origin"] == PAGE
    assert "authorization" in allowed["access-control-allow-headers"].lower()
    answer = post(client, PAGE, authorization="Bearer k")
    assert answer["access-control-allow-origin"] == PAGE
    assert "x-request-id" in answer["access-control-expose-headers"]


@pytest.mark.parametrize(
    "origin", ["https://evil.example", f"{PAGE}.evil", "http://poems.example", "null"]
)
def test_a_page_that_is_not_on_the_list_is_not(
    engine: FakeEngine, connect: Connect, origin: str
) -> None:
    client = connect(engine, ServerConfig(cors_origins=(PAGE,)))
    for headers in (preflight(client, origin), post(client, origin)):
        assert "access-control-allow-origin" not in headers


def test_a_star_lets_everybody_in(engine: FakeEngine, connect: Connect) -> None:
    client = connect(engine, ServerConfig(cors_origins=("*",)))
    assert preflight(client, PAGE)["access-control-allow-origin"] == "*"
    assert post(client, PAGE)["access-control-allow-origin"] == "*"
