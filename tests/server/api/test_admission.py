"""What headers say about a request's turn."""

import pytest
from fake_engine import FakeEngine
from wire import CHAT, Client, chat_body


def post(client: Client, headers: dict[str, str], **fields: object) -> int:
    return client.post(CHAT, json=chat_body(**fields), headers=headers).status_code


def test_without_headers_a_request_is_an_ordinary_one(client: Client, engine: FakeEngine) -> None:
    assert post(client, {"user-agent": "curl/8"}) == 200
    (request,) = engine.requests
    assert request.client.endswith(" curl/8")
    assert (request.is_batch, request.max_seconds) == (False, None)


def test_priority_and_deadline_reach_the_engine(client: Client, engine: FakeEngine) -> None:
    headers = {"x-verse-priority": "Batch", "x-verse-deadline-seconds": "2.5"}
    assert post(client, headers) == 200
    assert (engine.requests[0].is_batch, engine.requests[0].max_seconds) == (True, 2.5)


def test_the_field_user_tells_clients_apart(client: Client, engine: FakeEngine) -> None:
    assert post(client, {}, user="anna") == 200
    assert engine.requests[0].client == "anna"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-verse-priority", "high"),
        ("x-verse-deadline-seconds", "soon"),
        ("x-verse-deadline-seconds", "0"),
        ("x-verse-deadline-seconds", "nan"),
        ("x-verse-deadline-seconds", "inf"),
    ],
)
def test_a_header_that_means_nothing_is_400_and_named(
    client: Client, header: str, value: str
) -> None:
    answer = client.post(CHAT, json=chat_body(), headers={header: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == header
