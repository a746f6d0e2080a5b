"""With a key, /v1 is closed to whoever does not bring it."""

import pytest
from fake_engine import FakeEngine
from wire import CHAT, Client, Connect, chat_body

from verse_server.api.admission import ApiKeyGuard
from verse_server.config import ServerConfig


@pytest.fixture
def guarded(engine: FakeEngine, connect: Connect) -> Client:
    return connect(engine, ServerConfig(api_key="sésame"))


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer sésam",
        "Bearer sésamee",
        "Basic sésame",
        "sésame",
    ],
)
def test_without_the_right_key_it_is_401(
    guarded: Client, engine: FakeEngine, header: str | None
) -> None:
    headers = {} if header is None else {b"authorization": header.encode()}
    for response in (
        guarded.post(CHAT, json=chat_body(), headers=headers),
        guarded.get("/v1/models", headers=headers),
    ):
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        error = response.json()["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
        assert "sésame" not in response.text
    assert engine.requests == []


@pytest.mark.parametrize("header", ["Bearer sésame", "bearer sésame", "Bearer  sésame "])
def test_with_the_key_it_is_open(guarded: Client, header: str) -> None:
    headers = {b"authorization": header.encode()}
    assert guarded.get("/v1/models", headers=headers).status_code == 200


def test_a_wrong_key_is_told_before_the_body_is_read(guarded: Client) -> None:
    assert guarded.post(CHAT, content=b"x" * (2 << 20)).status_code == 401


def test_health_and_preflight_need_no_key(guarded: Client) -> None:
    assert guarded.get("/health").status_code == 200
    assert guarded.options(CHAT).status_code == 204


def test_without_a_key_any_header_will_do(client: Client) -> None:
    response = client.get("/v1/models", headers={"authorization": "Bearer unused"})
    assert response.status_code == 200


def test_the_guard_does_not_show_the_key() -> None:
    assert "sesame" not in repr(ApiKeyGuard("sesame"))
