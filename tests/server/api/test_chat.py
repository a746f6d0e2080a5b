"""Whole answers: what is sent to the engine, and what comes back."""

from typing import Any

import msgspec
import pytest
from fake_engine import FakeEngine
from openai_schemas import CreateChatCompletionResponse
from wire import CHAT, Client, Connect, chat_body

from verse.prompt import Message
from verse_server.engine.types import SamplingParams


def test_an_answer_has_exactly_the_fields_of_openais_schema(client: Client) -> None:
    response = client.post(CHAT, json=chat_body())
    assert response.status_code == 200
    answer = msgspec.json.decode(response.content, type=CreateChatCompletionResponse)
    assert answer.id.startswith("chatcmpl-")
    assert answer.choices[0].message.content == "轻轻的我走了，"
    assert answer.choices[0].finish_reason == "stop"


def test_usage_counts_prompt_and_answer(client: Client) -> None:
    usage = client.post(CHAT, json=chat_body()).json()["usage"]
    assert usage == {
        "prompt_tokens": 1,
        "completion_tokens": 4,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
    }


def test_the_answer_names_the_model_and_its_version(client: Client) -> None:
    adapter = client.post(CHAT, json=chat_body(model="xuzhimo@200")).json()
    base = client.post(CHAT, json=chat_body(model="base")).json()
    assert (adapter["model"], adapter["system_fingerprint"]) == (
        "xuzhimo@200",
        "verse-tiny-01234567",
    )
    assert (base["model"], base["system_fingerprint"]) == ("verse-tiny", "verse-tiny")


def test_every_answer_has_an_id_of_its_own(client: Client) -> None:
    replies = [client.post(CHAT, json=chat_body()) for _ in range(2)]
    assert len({reply.json()["id"] for reply in replies}) == 2
    assert len({reply.headers["x-request-id"] for reply in replies}) == 2


def test_an_answer_cut_short_says_length(connect: Connect) -> None:
    client = connect(FakeEngine(finish_reason="length"))
    answer = client.post(CHAT, json=chat_body()).json()
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_stop_that_matches_at_once_gives_an_empty_answer(connect: Connect) -> None:
    client = connect(FakeEngine([""]))
    answer = client.post(CHAT, json=chat_body()).json()
    assert answer["choices"][0]["message"]["content"] == ""
    assert answer["usage"]["completion_tokens"] == 1


def test_developer_is_system_and_text_parts_are_one_text(
    client: Client, engine: FakeEngine
) -> None:
    parts = [{"type": "text", "text": "河"}, {"type": "text", "text": "流"}]
    messages = [
        {"role": "developer", "content": "写诗"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "水"},
        {"role": "user", "content": ""},
    ]
    assert client.post(CHAT, json=chat_body(messages=messages)).status_code == 200
    assert engine.encoded == [
        Message("system", "写诗"),
        Message("user", "河流"),
        Message("assistant", "水"),
        Message("user", ""),
    ]


def test_an_answer_of_ours_can_be_sent_back_as_it_came(client: Client) -> None:
    message = client.post(CHAT, json=chat_body()).json()["choices"][0]["message"]
    sdk_extras: dict[str, Any] = {
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }
    messages = [*chat_body()["messages"], message | sdk_extras, {"role": "user", "content": "再"}]
    assert client.post(CHAT, json=chat_body(messages=messages)).status_code == 200


def test_sampling_fields_reach_the_engine(client: Client, engine: FakeEngine) -> None:
    fields = {
        "temperature": 0.5,
        "top_p": 0,
        "top_k": 7,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "frequency_penalty": -2,
        "presence_penalty": 2,
        "seed": -(2**63),
    }
    assert client.post(CHAT, json=chat_body(**fields)).status_code == 200
    assert engine.requests[0].sampling == SamplingParams(
        temperature=0.5,
        top_p=0,
        top_k=7,
        min_p=0.1,
        repetition_penalty=1.2,
        frequency_penalty=-2,
        presence_penalty=2,
        seed=-(2**63),
    )


def test_absent_and_null_sampling_fields_take_the_bases_defaults(connect: Connect) -> None:
    defaults = SamplingParams(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05)
    engine = FakeEngine(sampling=defaults)
    nulls = dict.fromkeys(SamplingParams.__struct_fields__)
    client = connect(engine)
    client.post(CHAT, json=chat_body())
    client.post(CHAT, json=chat_body(**nulls))
    assert [request.sampling for request in engine.requests] == [defaults, defaults]


@pytest.mark.parametrize("off", [0, -1])
def test_a_top_k_of_zero_or_minus_one_turns_the_bases_own_off(connect: Connect, off: int) -> None:
    engine = FakeEngine(sampling=SamplingParams(top_k=20))
    connect(engine).post(CHAT, json=chat_body(top_k=off))
    assert engine.requests[0].sampling.top_k == 0


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 63),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": None}, 63),
        ({"max_tokens": 1000}, 63),
        ({"max_tokens": 5, "max_completion_tokens": 9}, 9),
        ({"max_completion_tokens": 10**30}, 63),
    ],
)
def test_max_tokens_is_at_most_what_the_prompt_leaves_of_the_context(
    client: Client, engine: FakeEngine, fields: dict[str, int], expected: int
) -> None:
    client.post(CHAT, json=chat_body(**fields))
    assert engine.requests[0].max_tokens == expected


@pytest.mark.parametrize(("fields", "expected"), [({}, 2048), ({"max_tokens": 3000}, 3000)])
def test_a_request_that_sets_no_limit_gets_the_servers_own(
    connect: Connect, fields: dict[str, int], expected: int
) -> None:
    engine = FakeEngine(context_length=4096)
    connect(engine).post(CHAT, json=chat_body(**fields))
    assert engine.requests[0].max_tokens == expected


@pytest.mark.parametrize(
    ("stop", "expected"),
    [(None, ()), ("。", ("。",)), ([], ()), (["。", "\n\n"], ("。", "\n\n"))],
)
def test_stop_is_a_string_or_a_list(
    client: Client, engine: FakeEngine, stop: object, expected: tuple[str, ...]
) -> None:
    client.post(CHAT, json=chat_body(stop=stop))
    assert engine.requests[0].stop == expected


@pytest.mark.parametrize("model", ["verse-tiny", "base", "default_model", "xuzhimo"])
def test_the_adapters_field_names_the_adapter(
    client: Client, engine: FakeEngine, model: str
) -> None:
    answer = client.post(CHAT, json=chat_body(model=model, adapters="xuzhimo"))
    assert answer.json()["model"] == "xuzhimo"
    assert engine.requests[0].target.model == "xuzhimo"


def test_two_different_adapters_are_refused(client: Client) -> None:
    response = client.post(CHAT, json=chat_body(model="hushi", adapters="xuzhimo"))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "adapters"


def test_user_and_metadata_are_taken_and_change_nothing(client: Client) -> None:
    plain = client.post(CHAT, json=chat_body()).json()
    noted = client.post(CHAT, json=chat_body(user="u1", metadata={"run": "7"})).json()
    assert noted["choices"] == plain["choices"]


def test_a_finished_row_is_not_kept_open(client: Client, engine: FakeEngine) -> None:
    client.post(CHAT, json=chat_body())
    assert engine.num_running == 0
    assert engine.num_closed_early == 0
