"""The operator's endpoints: what is where, load, unload."""

from typing import Any

import pytest
from fake_engine import DIGEST, FakeEngine
from wire import Client, Connect

from verse_server.config import ServerConfig

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


def test_every_folder_is_listed_with_its_state_and_report(client: Client) -> None:
    answer = client.get("/v1/adapters").json()
    assert (answer["object"], answer["num_slots"]) == ("list", 4)
    broken, fine = answer["data"]
    assert (broken["id"], broken["state"], broken["report"]) == ("broken", "refused", None)
    assert "truncated" in broken["error"]
    assert (broken["unmatched"], fine["unmatched"]) == (["layers.9.mlp"], [])
    assert (fine["object"], fine["state"], fine["error"]) == ("adapter", "on_disk", None)
    assert fine["report"]["matched"] == 24


def test_loading_and_unloading_answer_with_the_new_state(
    client: Client, engine: FakeEngine
) -> None:
    body = {"lora_name": "xuzhimo", "lora_path": "/adapters/xuzhimo", "load_inplace": True}
    loaded = client.post(LOAD, json=body)
    assert loaded.status_code == 200
    assert loaded.json()["resident"] == [{"id": "xuzhimo", "digest": DIGEST, "slot": 0, "pins": 1}]
    assert engine.adapters.paths == ["/adapters/xuzhimo"]
    unloaded = client.post(UNLOAD, json={"lora_name": "xuzhimo"})
    assert (unloaded.status_code, unloaded.json()["state"]) == (200, "unloaded")


@pytest.mark.parametrize("path", [LOAD, UNLOAD])
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "lora_name"),
        ({"lora_name": ""}, "lora_name"),
        ({"lora_name": 5}, "lora_name"),
        ({"lora_name": "xuzhimo", "lora_path": 5}, "lora_path"),
        ({"lora_name": "xuzhimo", "rank": 8}, "rank"),
    ],
)
def test_a_wrong_body_is_refused_by_its_field(
    client: Client, path: str, body: dict[str, Any], param: str
) -> None:
    response = client.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_probe_answers_with_what_it_measured(client: Client) -> None:
    answer = client.post("/v1/adapters/xuzhimo/probe", json={"prompt": "河水"})
    assert answer.status_code == 200, answer.text
    measured = answer.json()
    assert (measured["model"], measured["prompt_tokens"]) == ("xuzhimo", 2)
    assert measured["kl_divergence"] == 0.5
    assert measured["top"] == [{"token": "河", "bytes": [230, 178, 179], "logprob": -0.5}]


@pytest.mark.parametrize(
    ("name", "body", "status", "param"),
    [
        ("xuzhimo", {}, 400, "prompt"),
        ("xuzhimo", {"prompt": ""}, 400, "prompt"),
        ("xuzhimo", {"prompt": "河", "n": 2}, 400, "n"),
        ("xuzhimo", {"prompt": "河" * 64}, 400, "messages"),
        ("nobody", {"prompt": "河"}, 404, None),
        ("broken", {"prompt": "河"}, 409, None),
    ],
)
def test_a_wrong_probe_is_refused(
    client: Client, name: str, body: dict[str, Any], status: int, param: str | None
) -> None:
    response = client.post(f"/v1/adapters/{name}/probe", json=body)
    assert response.status_code == status
    assert response.json()["error"]["param"] == param


def test_errors_have_the_statuses_they_have_elsewhere(client: Client) -> None:
    assert client.post(LOAD, json={"lora_name": "nobody"}).status_code == 404
    assert client.post(LOAD, json={"lora_name": "broken"}).status_code == 409
    assert client.post(UNLOAD, json={"lora_name": "nobody"}).status_code == 404
    assert client.get(LOAD).status_code == 405


def test_they_need_the_key(engine: FakeEngine, connect: Connect) -> None:
    client = connect(engine, ServerConfig(api_key="k"))
    assert client.get("/v1/adapters").status_code == 401
    assert client.post(LOAD, json={"lora_name": "xuzhimo"}).status_code == 401
    assert client.post(UNLOAD, json={"lora_name": "xuzhimo"}).status_code == 401
