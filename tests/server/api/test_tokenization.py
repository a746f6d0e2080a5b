"""The tokenizer's endpoints, as vLLM has them and lm-eval's remote tokenizer asks for them."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from fake_engine import FakeEngine
from wire import Client, Connect

from verse.prompt import FrameOptions
from verse_server.config import ServerConfig


def refusal(client: Client, path: str, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code in (400, 404), response.text
    return response.json()["error"]


def test_a_text_is_tokenized_with_and_without_what_texts_begin_with(client: Client) -> None:
    """`{"prompt": ..., "add_special_tokens": false}` is what lm-eval sends."""
    response = client.post("/tokenize", json={"prompt": "ab", "add_special_tokens": False})
    assert response.json() == {
        "count": 2,
        "max_model_len": 64,
        "tokens": [97, 98],
        "token_strs": None,
    }
    named = client.post("/tokenize", json={"prompt": "ab", "return_token_strs": True}).json()
    assert named["tokens"] == [1, 97, 98]
    assert named["token_strs"] == ["<1>", "<97>", "<98>"]


@pytest.mark.parametrize(
    ("path", "body", "method"),
    [
        ("/tokenize", {"prompt": "ab", "return_token_strs": True}, "token_names"),
        ("/detokenize", {"tokens": [5, 6]}, "decode"),
        ("/v1/completions", {"model": "base", "prompt": [5, 6], "echo": True}, "decode"),
    ],
)
def test_tokens_are_read_beside_the_event_loop(
    client: Client, engine: FakeEngine, path: str, body: Any, method: str
) -> None:
    threads: list[str] = []
    read = getattr(engine, method)

    def noted(tokens: Sequence[int]) -> Any:
        threads.append(threading.current_thread().name)
        return read(tokens)

    setattr(engine, method, noted)
    assert client.post(path, json=body).status_code == 200
    (thread,) = threads
    assert thread.startswith("encode")


def test_no_text_has_no_tokens_and_a_text_longer_than_the_context_has_all(client: Client) -> None:
    for text in ("", "a" * 1000):
        body = {"prompt": text, "add_special_tokens": False}
        assert client.post("/tokenize", json=body).json()["count"] == len(text)


def test_messages_are_tokenized_as_a_chat_would_be(client: Client, engine: FakeEngine) -> None:
    messages = [{"role": "user", "content": "河"}, {"role": "assistant", "content": "水"}]
    body = {
        "model": "xuzhimo",
        "messages": messages,
        "continue_final_message": True,
        "chat_template_kwargs": {"mood": "静"},
    }
    assert client.post("/tokenize", json=body).json()["tokens"] == [ord("河"), ord("水")]
    assert engine.options == FrameOptions(continue_final_message=True, variables={"mood": "静"})


def test_tokens_are_read_back(client: Client) -> None:
    assert client.post("/detokenize", json={"tokens": [5, 6]}).json() == {"prompt": "<5><6>"}
    assert client.post("/detokenize", json={"tokens": []}).json() == {"prompt": ""}


def test_the_tokenizer_shows_its_special_tokens_and_the_template(client: Client) -> None:
    info = client.get("/tokenizer_info").json()
    assert info["tokenizer_class"] == "FakeTokenizer"
    assert (info["eos_token"], info["bos_token"]) == ("<end>", None)
    assert info["chat_template"] == "{{ messages }}"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"prompt": "a", "tools": [{}]}, "tools"),
        ("/tokenize", {"prompt": "a", "colour": 1}, "colour"),
        (
            "/tokenize",
            {"messages": [{"role": "user", "content": "a"}], "add_special_tokens": True},
            "add_special_tokens",
        ),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [8192]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": "5"}, "tokens"),
    ],
)
def test_what_cannot_be_tokenized_is_refused_by_its_name(
    client: Client, path: str, body: dict[str, Any], param: str
) -> None:
    assert refusal(client, path, **body)["param"] == param


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_an_unknown_model_is_404(client: Client, path: str) -> None:
    body = {"model": "nobody", "prompt": "a"} if path == "/tokenize" else {"tokens": [5]}
    error = refusal(client, path, **(body | {"model": "nobody"}))
    assert error["code"] == "model_not_found"


def test_the_version_is_told_to_anybody_and_the_rest_wants_the_key(connect: Connect) -> None:
    client = connect(FakeEngine(), ServerConfig(api_key="open sesame"))
    assert client.get("/version").json()["version"]
    assert client.get("/tokenizer_info").status_code == 401
    assert client.post("/tokenize", json={"prompt": "a"}).status_code == 401
    key = {"Authorization": "Bearer open sesame"}
    assert client.post("/tokenize", json={"prompt": "a"}, headers=key).status_code == 200
