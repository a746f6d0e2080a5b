"""Responses that are kept: conversations go on from them, also after a restart."""

from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from test_response_stream import events
from test_responses import POEM, RESPONSES, ask, body, refused
from wire import Client, Connect

from verse.prompt import Message
from verse_server.config import ServerConfig


@pytest.fixture
def client(engine: FakeEngine, connect: Connect, tmp_path: Path) -> Client:
    return connect(engine, ServerConfig(state=tmp_path))


def missing(client: Client, method: str, path: str) -> Any:
    answer = client.request(method, f"{RESPONSES}/{path}")
    assert answer.status_code == 404, answer.text
    return answer.json()["error"]


def test_a_response_is_found_as_it_was_sent(client: Client) -> None:
    whole = ask(client, top_logprobs=1)
    streamed = events(client)[-1]["response"]
    for sent in (whole, streamed):
        assert client.get(f"{RESPONSES}/{sent['id']}").json() == sent


def test_a_conversation_goes_on_from_it_without_its_instructions(
    client: Client, engine: FakeEngine
) -> None:
    first = ask(client, instructions="写诗")
    second = ask(client, input="再", previous_response_id=first["id"], instructions="短")
    ask(client, input="三", previous_response_id=second["id"])
    assert engine.encoded == [
        Message("user", "河"),
        Message("assistant", POEM),
        Message("user", "再"),
        Message("assistant", POEM),
        Message("user", "三"),
    ]
    assert second["previous_response_id"] == first["id"]


def test_it_goes_on_after_a_restart(connect: Connect, tmp_path: Path) -> None:
    before = connect(FakeEngine(), ServerConfig(state=tmp_path))
    first = ask(before)
    engine = FakeEngine()
    after = connect(engine, ServerConfig(state=tmp_path))
    assert after.get(f"{RESPONSES}/{first['id']}").json() == first
    ask(after, input="再", previous_response_id=first["id"])
    assert len(engine.encoded) == 3


def test_its_input_items_come_page_by_page(client: Client) -> None:
    first = ask(client)
    second = ask(client, input="再", previous_response_id=first["id"])
    path = f"{RESPONSES}/{second['id']}/input_items"
    newest = client.get(path, params={"limit": 1}).json()
    assert newest["data"][0]["content"] == [{"type": "input_text", "text": "再"}]
    assert newest["has_more"]
    older = client.get(path, params={"after": newest["last_id"]}).json()
    assert [item["role"] for item in older["data"]] == ["assistant", "user"]
    assert not older["has_more"]
    oldest = client.get(path, params={"order": "asc"}).json()["data"]
    assert oldest[0]["id"] == older["last_id"]
    assert client.get(path, params={"limit": 0}).status_code == 400
    assert client.get(path, params={"after": "msg_0"}).status_code == 400


def test_an_item_is_found_by_its_id(client: Client, engine: FakeEngine) -> None:
    written = ask(client)["output"][0]
    again = {"role": "user", "content": "再"}
    for reference in ({"id": written["id"]}, {"type": "item_reference", "id": written["id"]}):
        ask(client, input=[reference, again])
        assert engine.encoded == [Message("assistant", POEM), Message("user", "再")]
    lost = client.post(RESPONSES, json=body(input=[{"type": "item_reference", "id": "msg_0"}]))
    assert lost.status_code == 404
    assert lost.json()["error"]["param"] == "input[0].id"


def test_what_is_deleted_is_gone_and_what_went_on_from_it_is_whole(client: Client) -> None:
    first = ask(client)
    second = ask(client, input="再", previous_response_id=first["id"])
    deleted = client.delete(f"{RESPONSES}/{first['id']}").json()
    assert deleted == {"id": first["id"], "object": "response", "deleted": True}
    assert missing(client, "GET", first["id"])["code"] == "response_not_found"
    missing(client, "DELETE", first["id"])
    missing(client, "GET", f"{first['id']}/input_items")
    assert refused(client, previous_response_id=first["id"])["code"] == (
        "previous_response_not_found"
    )
    ask(client, input="三", previous_response_id=second["id"])


def test_nothing_is_stored_that_is_not_to_be(client: Client, tmp_path: Path) -> None:
    response = ask(client, store=False)
    assert not response["store"]
    missing(client, "GET", response["id"])
    assert [*tmp_path.iterdir()] == []


def test_a_server_that_stores_nothing_says_so(connect: Connect, tmp_path: Path) -> None:
    client = connect(FakeEngine(), ServerConfig(state=tmp_path, store=False))
    response = ask(client)
    assert not response["store"]
    assert "--no-store" in missing(client, "GET", response["id"])["message"]
    assert "--no-store" in refused(client, previous_response_id=response["id"])["message"]
    assert refused(client, store=True)["param"] == "store"
    assert [*tmp_path.iterdir()] == []


def test_a_folder_that_cannot_be_written_takes_no_answer_away(
    connect: Connect, tmp_path: Path
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file")
    client = connect(FakeEngine(), ServerConfig(state=taken))
    response = ask(client)
    assert response["output"][0]["content"][0]["text"] == POEM
    assert not response["store"]


def test_a_stored_response_is_no_stream(client: Client) -> None:
    path = f"{RESPONSES}/{ask(client)['id']}"
    assert client.get(path, params={"stream": "true"}).status_code == 400
    include = ["message.output_text.logprobs"]
    assert client.get(path, params={"include": include}).status_code == 200
