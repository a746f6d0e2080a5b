"""Fields that vLLM, mlx_lm and their clients have beside OpenAI's, down to the engine and back."""

from typing import Any

import pytest
from fake_engine import FakeEngine
from test_chat_bad_input import refused
from wire import CHAT, Client, chat_body, events, stream

from verse.prompt import FrameOptions

COMPLETIONS = "/v1/completions"


def ask(client: Client, path: str, **fields: Any) -> Any:
    body = chat_body(**fields) if path == CHAT else {"model": "base", "prompt": "河水"} | fields
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_when_an_answer_ends_reaches_the_engine(
    client: Client, engine: FakeEngine, path: str
) -> None:
    ask(client, path, ignore_eos=True, min_tokens=5, stop_token_ids=[7, 8191])
    ask(client, path)
    asked, plain = engine.requests
    assert (asked.ignore_eos, asked.min_tokens, asked.stop_token_ids) == (True, 5, (7, 8191))
    assert (plain.ignore_eos, plain.min_tokens, plain.stop_token_ids) == (False, 0, ())


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_xtc_reaches_the_engine(client: Client, engine: FakeEngine, path: str) -> None:
    ask(client, path, xtc_probability=0.5)
    ask(client, path, xtc_probability=1, xtc_threshold=0.2)
    sampling = [request.sampling for request in engine.requests]
    assert [(s.xtc_probability, s.xtc_threshold) for s in sampling] == [(0.5, 0.1), (1, 0.2)]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ({"min_tokens": 64}, "min_tokens"),
        ({"stop_token_ids": [8192]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"stop_token_ids": [5] * 129}, "stop_token_ids"),
        ({"xtc_threshold": 0.6}, "xtc_threshold"),
        ({"xtc_probability": 1.1}, "xtc_probability"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": 0, "stream": True}, "prompt_logprobs"),
        ({"ignore_eos": True, "guided_regex": "a"}, "ignore_eos"),
        ({"min_tokens": 1, "response_format": {"type": "json_object"}}, "min_tokens"),
        ({"add_generation_prompt": True, "continue_final_message": True}, "continue_final_message"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(
    client: Client, engine: FakeEngine, fields: dict[str, Any], param: str
) -> None:
    assert refused(client, chat_body(**fields)).param == param
    assert engine.requests == []


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, FrameOptions(add_generation_prompt=True)),
        ({"add_generation_prompt": True}, FrameOptions(add_generation_prompt=True)),
        ({"add_generation_prompt": False}, FrameOptions()),
        ({"continue_final_message": True}, FrameOptions(continue_final_message=True)),
        (
            {"add_generation_prompt": False, "continue_final_message": True},
            FrameOptions(continue_final_message=True),
        ),
        (
            {"chat_template_kwargs": {"enable_thinking": True, "mood": ["静"]}},
            FrameOptions(
                add_generation_prompt=True, variables={"enable_thinking": True, "mood": ["静"]}
            ),
        ),
        (
            {"reasoning_effort": "high"},
            FrameOptions(
                add_generation_prompt=True,
                variables={"enable_thinking": True, "reasoning_effort": "high"},
            ),
        ),
        (
            {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
            FrameOptions(
                add_generation_prompt=True,
                variables={"enable_thinking": True, "reasoning_effort": "none"},
            ),
        ),
    ],
)
def test_how_the_prompt_ends_reaches_the_engine(
    client: Client, engine: FakeEngine, fields: dict[str, Any], options: FrameOptions
) -> None:
    ask(client, CHAT, **fields)
    assert engine.options == options


def test_an_answer_that_is_continued_is_told_apart_from_one_that_begins(
    client: Client, engine: FakeEngine
) -> None:
    user = {"role": "user", "content": "河"}
    for begun in ("河水", "", None):
        messages = [user, {"role": "assistant", "content": begun}]
        ask(client, CHAT, messages=messages, continue_final_message=True)
    assert [request.continues for request in engine.requests] == [True, False, False]


def test_every_chunk_tells_what_was_used_so_far(client: Client) -> None:
    chunks = stream(client, n=2, stream_options={"continuous_usage_stats": True})
    assert chunks[-1] == "[DONE]"
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks[:-1]]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (1, 8)
    assert all(chunk["choices"] for chunk in chunks[:-1])
    assert all(chunk["usage"]["prompt_tokens"] == 1 for chunk in chunks[:-1])


def test_the_last_count_is_that_of_the_last_event(client: Client) -> None:
    options = {"continuous_usage_stats": True, "include_usage": True}
    body = {"model": "base", "prompt": ["河", "月"], "stream": True, "stream_options": options}
    *pieces, last, _done = events(client.post(COMPLETIONS, json=body).text)
    assert last["choices"] == []
    assert pieces[-1]["usage"] == last["usage"]
    assert last["usage"]["completion_tokens"] == 8


def test_a_chat_tells_its_token_ids_whole_and_streamed(client: Client) -> None:
    answer = ask(client, CHAT, return_token_ids=True)
    assert answer["prompt_token_ids"] == [ord("河")]
    assert answer["choices"][0]["token_ids"] == [100, 101, 102, 103]
    *chunks, _done = stream(client, return_token_ids=True)
    assert chunks[0]["prompt_token_ids"] == [ord("河")]
    assert not any("prompt_token_ids" in chunk for chunk in chunks[1:])
    ids = [i for chunk in chunks for i in chunk["choices"][0].get("token_ids", [])]
    assert ids == [100, 101, 102, 103]


def test_completions_tell_their_token_ids_whole_and_streamed(client: Client) -> None:
    fields: dict[str, Any] = {"prompt": ["河", "月"], "return_token_ids": True}
    for index, choice in enumerate(ask(client, COMPLETIONS, **fields)["choices"]):
        assert choice["prompt_token_ids"] == [ord("河月"[index]) % 8192]
        assert choice["token_ids"] == [100, 101, 102, 103]
    response = client.post(COMPLETIONS, json={"model": "base", "stream": True, **fields})
    *pieces, _done = events(response.text)
    for index in range(2):
        own = [p["choices"][0] for p in pieces if p["choices"][0]["index"] == index]
        assert [i for piece in own for i in piece["token_ids"]] == [100, 101, 102, 103]
        assert ["prompt_token_ids" in piece for piece in own] == [True] + [False] * (len(own) - 1)


def test_nothing_is_told_that_was_not_asked_for(client: Client) -> None:
    for path in (CHAT, COMPLETIONS):
        text = str(ask(client, path))
        assert "token_ids" not in text
        assert "prompt_logprobs" not in text


@pytest.mark.parametrize("num_top", [0, 2])
def test_the_prompts_own_tokens_are_scored_as_vllm_reports_them(
    client: Client, engine: FakeEngine, num_top: int
) -> None:
    own = str(ord("水"))
    entry = {"logprob": -0.5, "rank": 1, "decoded_token": "水"}
    user = {"role": "user", "content": "河水"}
    answer = ask(client, CHAT, messages=[user], prompt_logprobs=num_top)
    first, second = answer["prompt_logprobs"]
    assert first is None
    assert second[own] == entry
    assert answer["choices"][0]["logprobs"] is None
    assert (engine.requests[0].score_prompt, engine.requests[0].num_prompt_logprobs) == (
        True,
        num_top,
    )
    (choice,) = ask(client, COMPLETIONS, prompt=[5, 77], prompt_logprobs=num_top)["choices"]
    assert choice["prompt_logprobs"][0] is None
    assert choice["prompt_logprobs"][1]["77"]["decoded_token"] == "M"
    assert choice["logprobs"] is None


def test_an_echo_and_the_prompts_scores_go_together(client: Client, engine: FakeEngine) -> None:
    fields: dict[str, Any] = {"prompt": [65, 66], "echo": True, "logprobs": 1, "max_tokens": 1}
    (plain,) = ask(client, COMPLETIONS, **fields)["choices"]
    (both,) = ask(client, COMPLETIONS, **fields, prompt_logprobs=3)["choices"]
    assert engine.requests[1].num_prompt_logprobs == 3
    assert both["logprobs"] == plain["logprobs"]
    assert "66" in both["prompt_logprobs"][1]
    (scored,) = ask(client, COMPLETIONS, **(fields | {"echo": False}), prompt_logprobs=3)["choices"]
    assert scored["logprobs"]["tokens"] == plain["logprobs"]["tokens"][2:]


def test_a_tool_call_tells_its_token_ids_whole_and_streamed(client: Client) -> None:
    function = {"name": "write", "parameters": {"type": "object"}}
    fields: dict[str, Any] = {
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
        "return_token_ids": True,
    }
    assert ask(client, CHAT, **fields)["choices"][0]["token_ids"] == [100, 101, 102, 103]
    *chunks, _done = stream(client, **fields)
    ids = [i for chunk in chunks for i in chunk["choices"][0].get("token_ids", [])]
    assert ids == [100, 101, 102, 103]
