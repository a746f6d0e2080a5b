"""Several answers to one prompt, and the log-probabilities of their tokens."""

from typing import Any

import msgspec
from fake_engine import FakeEngine
from openai_schemas import CreateChatCompletionResponse, CreateChatCompletionStreamResponse
from wire import CHAT, Client, chat_body, stream

from verse_server.engine.types import SamplingParams

POEM = "轻轻的我走了，"


def test_n_answers_are_n_choices_and_the_prompt_is_counted_once(client: Client) -> None:
    answer = client.post(CHAT, json=chat_body(n=3)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in answer["choices"]} == {POEM}
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (1, 12)


def test_a_stream_of_n_answers_opens_and_ends_each_of_them(client: Client) -> None:
    *chunks, done = stream(client, n=3, stream_options={"include_usage": True})
    assert done == "[DONE]"
    msgspec.convert(chunks, list[CreateChatCompletionStreamResponse])
    last = chunks.pop()
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 12)
    for index in range(3):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(choice["delta"].get("content", "") for choice in mine) == POEM
        assert [choice["finish_reason"] for choice in mine] == [None] * (len(mine) - 1) + ["stop"]


def entries(choices: list[Any]) -> list[Any]:
    return [
        entry for choice in choices for entry in (choice["logprobs"] or {"content": []})["content"]
    ]


def test_logprobs_have_openais_shape_whole_and_in_a_stream(client: Client) -> None:
    wanted: dict[str, Any] = {"logprobs": True, "top_logprobs": 2}
    response = client.post(CHAT, json=chat_body(**wanted))
    msgspec.json.decode(response.content, type=CreateChatCompletionResponse)
    whole = entries(response.json()["choices"])
    assert [entry["token"] for entry in whole] == ["轻轻的", "我走了", "，"]
    assert [len(entry["top_logprobs"]) for entry in whole] == [2, 2, 2]
    assert bytes(whole[0]["bytes"]).decode() == "轻轻的"
    chunks = stream(client, **wanted)[:-1]
    msgspec.convert(chunks, list[CreateChatCompletionStreamResponse])
    assert entries([chunk["choices"][0] for chunk in chunks]) == whole


def test_without_logprobs_the_field_is_null(client: Client, engine: FakeEngine) -> None:
    for fields in ({}, {"logprobs": False}, {"logprobs": None, "top_logprobs": 0}):
        answer = client.post(CHAT, json=chat_body(**fields)).json()
        assert answer["choices"][0]["logprobs"] is None
    assert {request.num_top_logprobs for request in engine.requests} == {None}


def test_biases_reach_the_engine_by_token_id(client: Client, engine: FakeEngine) -> None:
    client.post(CHAT, json=chat_body(logit_bias={"5": 100, "17": -2.5}))
    client.post(CHAT, json=chat_body(logit_bias={}))
    assert [r.sampling.logit_bias for r in engine.requests] == [{5: 100.0, 17: -2.5}, {}]
    assert engine.requests[1].sampling == SamplingParams()
