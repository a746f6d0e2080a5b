"""Columns are answered together, and one that fails takes no other with it."""

from typing import Any

import pytest
from fake_engine import POEM, FakeEngine
from wire import Client, chat_body, events

COLUMNS = "/v1/columns"


def columns(client: Client, *bodies: dict[str, Any]) -> list[Any]:
    answer = client.post(COLUMNS, json={"columns": list(bodies)})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events(answer.text)
    assert found.pop() == "[DONE]"
    return found


def text_of(found: list[Any], column: int) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for event in found
        if event["column"] == column and "chunk" in event
        for choice in event["chunk"]["choices"]
    )


def test_each_column_gets_its_own_answer(client: Client, engine: FakeEngine) -> None:
    found = columns(client, chat_body(seed=7), chat_body(model="base", seed=7))
    assert [text_of(found, column) for column in (0, 1)] == ["".join(POEM)] * 2
    assert {request.target.model for request in engine.requests} == {"xuzhimo", "verse-tiny"}


def test_columns_that_fail_are_told_apart_from_those_that_do_not(client: Client) -> None:
    found = columns(
        client, chat_body(model="nobody"), chat_body(), chat_body(model="broken"), chat_body()
    )
    errors = {event["column"]: event["error"] for event in found if "error" in event}
    assert {column: error["code"] for column, error in errors.items()} == {
        0: "model_not_found",
        2: "adapter_incompatible",
    }
    assert text_of(found, 1) == text_of(found, 3) == "".join(POEM)


def test_two_hundred_run_over_one_connection(client: Client, engine: FakeEngine) -> None:
    found = columns(client, *[chat_body(seed=number) for number in range(200)])
    assert {event["column"] for event in found} == set(range(200))
    assert engine.num_running == 0
    assert sorted(request.sampling.seed or 0 for request in engine.requests) == [*range(200)]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"columns": []}, "columns"),
        ({"columns": [chat_body()] * 257}, "columns"),
        ({"columns": [chat_body(), chat_body(temperature=3)]}, "columns[1].temperature"),
        ({"columns": [chat_body(), chat_body(echo=True)]}, "columns[1].echo"),
        ({"columns": [chat_body()], "stream": True}, "stream"),
    ],
)
def test_a_wrong_column_is_named(client: Client, body: Any, param: str) -> None:
    answer = client.post(COLUMNS, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
