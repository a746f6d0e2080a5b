"""`/v1/completions`: prompts as texts and ids, several at once, echoed, with log-probabilities."""

from typing import Any

import pytest
from fake_engine import POEM, FakeEngine
from openai.types import Completion
from openai.types.completion_create_params import CompletionCreateParamsStreaming
from wire import Client, Connect, events

from verse.prompt import PromptFormat
from verse_server.api.answering import ContinuedText
from verse_server.engine.errors import GenerationFailedError, InvalidRequestError
from verse_server.engine.types import (
    GenerationChunk,
    SamplingParams,
    Target,
    TokenLogprob,
    TokenText,
)
from verse_server.protocol.completions import CompletionRequest

PATH = "/v1/completions"
TEXT = "".join(POEM)


def ask(client: Client, **fields: Any) -> Any:
    response = client.post(PATH, json={"model": "xuzhimo", "prompt": "河", **fields})
    assert response.status_code == 200, response.text
    return response.json()


def stream(client: Client, **fields: Any) -> list[Any]:
    body = {"model": "xuzhimo", "prompt": "河", "stream": True, **fields}
    response = client.post(PATH, json=body)
    assert response.status_code == 200, response.text
    *frames, done = events(response.text)
    assert done == "[DONE]"
    return frames


def test_a_text_is_continued_without_a_frame(client: Client, engine: FakeEngine) -> None:
    answer = ask(client, prompt="河水", temperature=0.5, stop=["。"], seed=3)
    Completion.model_validate(answer)
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    assert answer["model"] == "xuzhimo"
    assert answer["system_fingerprint"].startswith("verse-tiny-")
    assert answer["choices"] == [
        {"text": TEXT, "index": 0, "logprobs": None, "finish_reason": "stop"}
    ]
    assert answer["usage"]["prompt_tokens"] == 2
    assert answer["usage"]["completion_tokens"] == len(POEM)
    asked = engine.requests[0]
    assert asked.prompt == tuple(ord(c) % 8192 for c in "河水")
    assert (asked.framed, asked.max_tokens, asked.stop) == (False, 16, ("。",))
    assert asked.sampling == SamplingParams(temperature=0.5, seed=3)
    assert engine.encoded == []


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ([5, 6, 7], [(5, 6, 7)]),
        ([[5], [6, 7]], [(5,), (6, 7)]),
        (["ab", "c"], [(97, 98), (99,)]),
        (["ab"], [(97, 98)]),
    ],
)
def test_prompts_may_be_ids_and_lists(
    client: Client, engine: FakeEngine, prompt: Any, prompts: Any
) -> None:
    answer = ask(client, prompt=prompt, n=2)
    assert [request.prompt for request in engine.requests] == prompts
    assert [choice["index"] for choice in answer["choices"]] == list(range(2 * len(prompts)))
    assert answer["usage"]["prompt_tokens"] == sum(map(len, prompts))
    assert answer["usage"]["completion_tokens"] == 2 * len(prompts) * len(POEM)
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == len(prompts)


def test_echo_begins_with_the_prompt(client: Client) -> None:
    texts = [choice["text"] for choice in ask(client, prompt=["a", "b"], n=2, echo=True)["choices"]]
    assert texts == [f"a{TEXT}", f"a{TEXT}", f"b{TEXT}", f"b{TEXT}"]
    assert ask(client, prompt=[5, 6], echo=True)["choices"][0]["text"] == f"<5><6>{TEXT}"


def test_a_stream_has_the_same_shape_and_the_same_texts(client: Client) -> None:
    frames = stream(
        client, prompt=["a", "b"], echo=True, stream_options={"include_usage": True}, n=2
    )
    *parts, last = frames
    Completion.model_validate(last)
    assert {part["object"] for part in parts} == {"text_completion"}
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 4 * len(POEM))
    assert {part["usage"] for part in parts} == {None}
    texts = [""] * 4
    for part in parts:
        texts[part["choices"][0]["index"]] += part["choices"][0]["text"]
    assert texts == [f"a{TEXT}", f"a{TEXT}", f"b{TEXT}", f"b{TEXT}"]
    assert "usage" not in stream(client)[0]


def test_logprobs_are_columns_also_in_a_stream(client: Client) -> None:
    whole = ask(client, logprobs=2)["choices"][0]["logprobs"]
    assert whole == {
        "tokens": ["轻轻的", "我走了", "，"],
        "token_logprobs": [-0.5] * 3,
        "top_logprobs": [{"轻轻的": -0.5}, {"我走了": -0.5}, {"，": -0.5}],
        "text_offset": [0, 3, 6],
    }
    columns: dict[str, list[Any]] = {name: [] for name in whole}
    for part in stream(client, logprobs=2):
        for name, values in part["choices"][0]["logprobs"].items():
            columns[name] += values
    assert columns == whole


def test_echo_and_logprobs_score_the_prompt_too(client: Client, engine: FakeEngine) -> None:
    fields = {"prompt": ["ab", "c"], "echo": True, "logprobs": 1, "n": 2}
    answer = ask(client, **fields)
    assert [choice["text"] for choice in answer["choices"]] == [f"ab{TEXT}"] * 2 + [f"c{TEXT}"] * 2
    assert answer["choices"][1]["logprobs"] == {
        "tokens": ["a", "b", "轻轻的", "我走了", "，"],
        "token_logprobs": [None] + [-0.5] * 4,
        "top_logprobs": [
            None, {"b": -0.5}, {"轻轻的": -0.5}, {"我走了": -0.5}, {"，": -0.5},
        ],
        "text_offset": [0, 1, 2, 5, 8],
    }  # fmt: skip
    assert [request.score_prompt for request in engine.requests] == [True, True]
    first: dict[int, Any] = {}
    columns: dict[int, list[Any]] = {index: [] for index in range(4)}
    for part in stream(client, **fields):
        (choice,) = part["choices"]
        first.setdefault(choice["index"], choice)
        columns[choice["index"]] += choice["logprobs"]["token_logprobs"]
    assert [first[index]["text"] for index in range(4)] == ["ab", "ab", "c", "c"]
    assert first[0]["logprobs"]["tokens"] == ["a", "b"]
    assert columns == {
        choice["index"]: choice["logprobs"]["token_logprobs"] for choice in answer["choices"]
    }


@pytest.mark.parametrize("streamed", [False, True])
def test_a_prompt_may_be_scored_and_not_continued(client: Client, streamed: bool) -> None:
    fields = {"prompt": "a" * 64, "echo": True, "logprobs": 0, "max_tokens": 0}
    if streamed:
        (answer,) = stream(client, **fields)
    else:
        answer = ask(client, **fields)
        assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] == 64
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("a" * 64, "length")
    assert choice["logprobs"]["top_logprobs"] == [None] + [{"a": -0.5}] * 63


def test_logprobs_are_of_the_answer_alone_without_echo_and_of_nothing_without_logprobs(
    client: Client, engine: FakeEngine
) -> None:
    ask(client, logprobs=1)
    (choice,) = ask(client, echo=True, max_tokens=0)["choices"]
    assert (choice["text"], choice["logprobs"]) == ("河", None)
    assert not any(request.score_prompt for request in engine.requests)


def test_a_token_that_the_tokenizer_puts_before_a_text_takes_no_room_in_it() -> None:
    begin = TokenText(token="<s>", bytes=tuple(b"<s>"))
    entries = [TokenLogprob(token=c, bytes=tuple(c.encode()), logprob=-1.0) for c in "河水流"]
    target = Target(model="base", prompt_format=PromptFormat())
    chunk = GenerationChunk(
        text="流",
        target=target,
        completion_tokens=1,
        scored_prompt=(begin, *entries[:2]),
        logprobs=(entries[2],),
    )
    for echo, offsets in (("河水", (0, 0, 1, 2)), ("<s>河水", (0, 3, 4, 5))):
        logprobs = ContinuedText(0, echo, with_logprobs=True).piece([chunk]).logprobs
        assert logprobs is not None
        assert logprobs.text_offset == offsets


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt"),
        ({"prompt": [5, [6]]}, "prompt"),
        ({"prompt": [8192]}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [[5, 8192]]}, "prompt"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": "河" * 64}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 0, "logprobs": 1}, "max_tokens"),
        ({"max_tokens": -1, "echo": True}, "max_tokens"),
        ({"max_tokens": 0, "echo": True, "prompt": "河" * 65}, "prompt"),
        ({"max_tokens": 1, "echo": True, "prompt": "河" * 64}, "prompt"),
        ({"n": 17}, "n"),
        ({"messages": []}, "messages"),
        ({"logit_bias": {"8192": 1}}, "logit_bias"),
        ({"stream_options": {}}, "stream_options"),
        ({"adapters": "hushi"}, "adapters"),
    ],
)
def test_what_is_wrong_is_refused_by_its_field(
    client: Client, engine: FakeEngine, fields: dict[str, Any], param: str
) -> None:
    response = client.post(PATH, json={"model": "xuzhimo", "prompt": "河", **fields})
    assert response.status_code == 400, response.text
    assert (response.json()["error"]["param"] or "").startswith(param)
    assert engine.requests == []


def test_headers_say_when_it_has_its_turn(client: Client, engine: FakeEngine) -> None:
    headers = {"x-verse-priority": "batch", "x-verse-deadline-seconds": "30"}
    body = {"model": "base", "prompt": ["a", "b"], "user": "li"}
    assert client.post(PATH, json=body, headers=headers).status_code == 200
    turns = {(r.client, r.is_batch, r.max_seconds) for r in engine.requests}
    assert turns == {("li", True, 30.0)}


def test_defaults_may_be_spelled_out(client: Client) -> None:
    nothing = {"suffix": None, "best_of": 1, "echo": False, "logprobs": None, "stop": None}
    assert ask(client, **nothing)["choices"][0]["text"] == TEXT


def test_every_parameter_that_the_sdk_can_send_is_known() -> None:
    sdk = set(CompletionCreateParamsStreaming.__annotations__)
    for base in CompletionCreateParamsStreaming.__mro__:
        sdk |= set(getattr(base, "__annotations__", {}))
    assert len(sdk) > 15
    assert sdk <= set(CompletionRequest.__struct_fields__)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("prompt", ["a", ["a", "b", "c"]])
def test_an_error_before_the_first_text_is_plain_http(
    connect: Connect, prompt: Any, streamed: bool
) -> None:
    client = connect(FakeEngine(first_error=InvalidRequestError("No room.", param="n")))
    body = {"model": "xuzhimo", "prompt": prompt, "stream": streamed}
    response = client.post(PATH, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "n")


def test_an_engine_that_breaks_closes_all_requests(connect: Connect) -> None:
    engine = FakeEngine(late_error=GenerationFailedError("It broke."))
    response = connect(engine).post(PATH, json={"model": "base", "prompt": ["a", "b"]})
    assert response.status_code == 500
    assert engine.num_running == 0


def test_an_answer_without_an_end_is_an_error(connect: Connect) -> None:
    client = connect(FakeEngine(finish_reason=None))
    assert client.post(PATH, json={"model": "base", "prompt": "a"}).status_code == 500
