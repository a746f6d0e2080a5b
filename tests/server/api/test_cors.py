"""Web pages of other origins, and names of other hosts, are kept out unless they are named."""

from typing import Any

import msgspec
import pytest
from fake_engine import FakeEngine
from openai_schemas import ErrorResponse
from wire import CHAT, Client, Connect, chat_body

from verse_server.config import ServerConfig

PAGE = "https://poems.example"

PAGE_OF_ANOTHER_SITE = {"origin": PAGE, "sec-fetch-site": "cross-site"}


def preflight(client: Client, origin: str, status: int = 204) -> dict[str, str]:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type",
    }
    response = client.options(CHAT, headers=headers)
    assert response.status_code == status
    return dict(response.headers)


def post(client: Client, origin: str, status: int = 200, **headers: str) -> dict[str, str]:
    response = client.post(CHAT, json=chat_body(), headers={"origin": origin, **headers})
    assert response.status_code == status
    return dict(response.headers)


def refused(client: Client, code: str, path: str = "/v1/models", **headers: str) -> None:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    response = client.get(path, headers=fields)
    assert response.status_code == 403
    error = msgspec.json.decode(response.content, type=ErrorResponse).error
    assert error.code == code
    assert response.headers["x-request-id"].startswith("req_")


def test_without_a_list_no_page_is_let_in(client: Client, engine: FakeEngine) -> None:
    for headers in (preflight(client, PAGE, status=403), post(client, PAGE, status=403)):
        assert not [name for name in headers if name.startswith("access-control")]
    assert engine.requests == []


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
    for headers in (preflight(client, origin, status=403), post(client, origin, status=403)):
        assert "access-control-allow-origin" not in headers


def test_a_star_lets_everybody_in(engine: FakeEngine, connect: Connect) -> None:
    client = connect(engine, ServerConfig(cors_origins=("*",)))
    assert preflight(client, PAGE)["access-control-allow-origin"] == "*"
    assert post(client, PAGE)["access-control-allow-origin"] == "*"


PATHS = ["/health", "/metrics", "/v1/models", "/schema/openapi.json", "/nope"]


@pytest.mark.parametrize("path", PATHS)
def test_no_page_reads_anything(client: Client, path: str) -> None:
    refused(client, "origin_not_allowed", path, origin=PAGE)
    refused(client, "origin_not_allowed", path, sec_fetch_site="cross-site")
    refused(client, "host_not_allowed", path, host="evil.example")


def test_a_page_of_another_site_is_let_in_by_its_origin_alone(
    engine: FakeEngine, connect: Connect
) -> None:
    client = connect(engine, ServerConfig(cors_origins=(PAGE + "/",)))
    assert client.get("/health", headers=PAGE_OF_ANOTHER_SITE).status_code == 200
    refused(client, "origin_not_allowed", sec_fetch_site="cross-site")
    everybody = connect(engine, ServerConfig(cors_origins=("*",)))
    headers = {"sec-fetch-site": "cross-site"}
    assert everybody.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"},
        {"sec-fetch-mode": "cors"},
        {"sec-fetch-site": "same-origin"},
    ],
)
def test_a_program_and_an_address_typed_in_are_let_in(
    client: Client, headers: dict[str, Any]
) -> None:
    assert client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "localhost.",
        "127.0.0.1",
        "127.0.0.1:1",
        "[::1]:8000",
        "[::1]",
    ],
)
@pytest.mark.parametrize("bound", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_this_machines_own_names_are_always_answered(
    engine: FakeEngine, connect: Connect, host: str, bound: str
) -> None:
    client = connect(engine, ServerConfig(host=bound))
    assert client.get("/health", headers={"host": host}).status_code == 200


NAMES_OF_OTHERS = ["evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.1", "x"]


@pytest.mark.parametrize("host", [*NAMES_OF_OTHERS, "127.0.0.1.evil.example", "notlocalhost", ""])
def test_on_a_loopback_address_other_names_are_not(
    engine: FakeEngine, connect: Connect, host: str
) -> None:
    refused(connect(engine), "host_not_allowed", host=host)


def test_a_name_can_be_allowed(engine: FakeEngine, connect: Connect) -> None:
    client = connect(engine, ServerConfig(allowed_hosts=("Poems.example", "b.example:80")))
    for host in ("poems.example", "poems.example:8000", "b.example", "localhost"):
        assert client.get("/health", headers={"host": host}).status_code == 200
    refused(client, "host_not_allowed", host="evil.example")


@pytest.mark.parametrize("config", [{"host": "0.0.0.0"}, {"allowed_hosts": ("*",)}])
def test_on_other_addresses_and_with_a_star_any_name_is_answered(
    engine: FakeEngine, connect: Connect, config: dict[str, Any]
) -> None:
    client = connect(engine, ServerConfig(**config))
    for host in NAMES_OF_OTHERS:
        assert client.get("/health", headers={"host": host}).status_code == 200


def test_elsewhere_naming_one_keeps_out_the_others(engine: FakeEngine, connect: Connect) -> None:
    client = connect(engine, ServerConfig(host="0.0.0.0", allowed_hosts=("poems.example",)))
    assert client.get("/health", headers={"host": "poems.example"}).status_code == 200
    refused(client, "host_not_allowed", host="evil.example")
