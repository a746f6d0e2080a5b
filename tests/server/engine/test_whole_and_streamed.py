"""A streamed answer is the whole one, in every field, and a stop string only cuts it short.

Through the HTTP side, over a real engine with a tiny random base. What an answer should be is told
from the one without stop strings: those change nothing about what is drawn.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from litestar import Litestar
from litestar.testing import TestClient

from tests.server.api.openai_schemas import (
    CreateChatCompletionResponse,
    CreateChatCompletionStreamResponse,
)
from tests.server.engine.conftest import CONFIG, VERSE_TINY, MakeAdapter
from verse_server.app import create_app
from verse_server.config import EngineConfig, ServerConfig
from verse_server.engine.engine import MlxEngine

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
SCHEMA = {
    "type": "object",
    "properties": {"题": {"enum": ["月", "月亮", "河 水"]}, "n": {"type": "integer"}},
    "required": ["题", "n"],
    "additionalProperties": False,
}
VOCABULARY: dict[str, int] = json.loads((VERSE_TINY / "tokenizer.json").read_text("utf-8"))[
    "model"
]["vocab"]
END = CONFIG["eos_token_id"]


class Answer(NamedTuple):
    """What a client knows of one choice at the end."""

    text: str
    entries: list[Any] | None
    finish_reason: str


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, make_adapter: MakeAdapter
) -> Iterator[TestClient[Litestar]]:
    folder = tmp_path_factory.mktemp("streamed")
    make_adapter(folder / "a", seed=0)
    engine = MlxEngine.start(EngineConfig(model=str(tiny_base), adapters=folder))
    app = create_app(engine, ServerConfig())
    with TestClient[Litestar](app, base_url="http://127.0.0.1") as client:
        yield client
    engine.close()


def post(client: TestClient[Litestar], path: str, body: dict[str, Any]) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response


def entries_of(logprobs: dict[str, Any] | None) -> list[Any]:
    """Of either endpoint, one for each token."""
    if logprobs is None:
        return []
    if "content" in logprobs:
        return logprobs["content"]
    columns = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    return list(zip(*(logprobs[column] for column in columns), strict=True))


def whole(client: TestClient[Litestar], path: str, body: dict[str, Any]) -> tuple[Any, Any]:
    """The answers and all else that the body says."""
    response = post(client, path, body)
    if path == CHAT:
        msgspec.json.decode(response.content, type=CreateChatCompletionResponse)
    answer = response.json()
    answers = [
        Answer(
            choice["message"]["content"] if path == CHAT else choice["text"],
            None if choice["logprobs"] is None else entries_of(choice["logprobs"]),
            choice["finish_reason"],
        )
        for choice in answer["choices"]
    ]
    return answers, common(answer)


def streamed(client: TestClient[Litestar], path: str, body: dict[str, Any]) -> tuple[Any, Any]:
    """The same put together from a stream's parts, as a client does."""
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    lines = post(client, path, body).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    parts = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    if path == CHAT:
        msgspec.convert(parts, list[CreateChatCompletionStreamResponse])
    texts: dict[int, str] = {}
    entries: dict[int, list[Any]] = {}
    reasons: dict[int, str] = {}
    for choice in [choice for part in parts for choice in part["choices"]]:
        index = choice["index"]
        text = choice["delta"].get("content", "") if path == CHAT else choice["text"]
        assert index not in reasons, "nothing follows a finish reason"
        texts[index] = texts.get(index, "") + text
        entries.setdefault(index, []).extend(entries_of(choice.get("logprobs")))
        if choice["finish_reason"] is not None:
            reasons[index] = choice["finish_reason"]
    wants = body.get("logprobs") is not None and body["logprobs"] is not False
    answers = [
        Answer(texts[index], entries[index] if wants else None, reasons[index])
        for index in sorted(texts)
    ]
    assert [part["usage"] for part in parts[:-1]] == [None] * (len(parts) - 1)
    heads = [{**common(part), "usage": None} for part in parts]
    assert heads == [heads[0]] * len(parts)
    return answers, common(parts[-1])


def common(answer: dict[str, Any]) -> dict[str, Any]:
    """What the two kinds of answer share beside the choices; an id and a time are nobody else's."""
    return {name: answer[name] for name in ("model", "system_fingerprint", "usage")}


def rounded(value: Any) -> Any:
    """The last digits of a log-probability depend on who else was in the batch."""
    if isinstance(value, float):
        return round(value, 2)
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return value


def spelled(contents: list[bytes]) -> str:
    """The text of a chat's tokens, by their bytes alone; it never begins with a blank."""
    text = b"".join(contents).decode("utf-8", "replace").replace(REPLACEMENT, "")
    return text.removeprefix(" ")


def cut(free: Answer, stops: list[str]) -> tuple[Answer, int | None]:
    """Slow and obvious: read on token by token until the text holds a stop string.

    Returns:
        The answer, and how many tokens it took; None if no stop string was found.
    """
    entries = free.entries or []
    contents = [bytes(entry["bytes"]) for entry in entries]
    texts = [spelled(contents[:n]) for n in range(len(entries) + 1)]
    assert texts[-1] == free.text
    for num_tokens, text in enumerate(texts):
        found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
        if found:
            _, end = min(found)
            # A blank is only read when the next token is there.
            behind = range(num_tokens - 1, len(entries))
            num_read = next((n + 1 for n in behind if contents[n] != b" "), len(entries))
            kept = [e for e, before in zip(entries, texts, strict=False) if len(before) < end]
            return Answer(text[:end], kept, "stop"), num_read
    return free, None


def ids(*names: str) -> list[int]:
    return [VOCABULARY[name] for name in names]


# Few tokens, so that stop strings begin in one and end in another, overlap themselves, and stand
# beside half characters ("ð" "Ł" ... are the bytes of a wave), blanks and tokens without text.
FEW = [
    ids("a", "b"),
    ids("a", "b", "Ġ", "Ċ"),
    ids("a", "ð", "Ł", "Į", "Ĭ"),
    [*ids("Ġ", "a", "b"), 0, 1],
    [*ids("a", "b"), END],
]


# Some are of token ids that spell half a character: in the middle, at the end, at the beginning.
PROMPTS: list[Any] = [
    "河水",
    ids("a", "b"),
    ["河", "a b"],
    ids("ð", "Ł", "a", "b"),
    ids("a", "ð", "Ł"),
    ids("Ł", "Į", "a", "ð", "b"),
]


def few_tokens(few: list[int]) -> dict[str, float]:
    return {str(token): 100.0 for token in few}


def together(*parts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for part in parts for name, value in part.items()}


sampling: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.7, 1.5, 2.0]),
        "seed": st.integers(-5, 5),
        "model": st.sampled_from(["base", "a", "a:0.5"]),
    },
    optional={
        "n": st.integers(1, 3),
        "top_p": st.sampled_from([0.5, 0.95]),
        "top_k": st.sampled_from([1, 40]),
        "min_p": st.just(0.01),
        "repetition_penalty": st.sampled_from([0.8, 1.3]),
        "frequency_penalty": st.sampled_from([-1.0, 1.5]),
        "presence_penalty": st.sampled_from([-1.0, 1.5]),
        "logit_bias": st.sampled_from(FEW).map(few_tokens),
    },
)
lengths = st.integers(1, 16)
chat_bodies = st.builds(
    together,
    st.just({"messages": [{"role": "user", "content": "河水"}]}),
    sampling,
    st.fixed_dictionaries(
        {"max_tokens": lengths, "logprobs": st.just(True), "top_logprobs": st.integers(0, 3)},
        optional={
            "response_format": st.sampled_from(
                [
                    {"type": "json_object"},
                    {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
                ]
            )
        },
    ),
)
completion_bodies = st.builds(
    together,
    sampling,
    st.fixed_dictionaries(
        {"prompt": st.sampled_from(PROMPTS), "max_tokens": lengths},
        optional={"logprobs": st.integers(0, 3), "echo": st.booleans()},
    ),
)


def stops_in(texts: list[str]) -> st.SearchStrategy[list[str]]:
    """Pieces of what will be written, wherever they begin and end, and what never comes."""
    spans = st.tuples(st.sampled_from(texts), st.integers(0, 40), st.integers(1, 5)).map(
        lambda span: span[0][span[1] % (len(span[0]) or 1) :][: span[2]]
    )
    pieces = spans.filter(bool) if any(texts) else st.nothing()
    return st.lists(st.one_of(pieces, st.sampled_from(["aab", "never"])), max_size=3)


anything = settings(
    deadline=None,
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@anything
@given(body=chat_bodies, data=st.data())
def test_a_chat_is_the_same_whole_and_streamed_and_a_stop_string_cuts_it(
    client: TestClient[Litestar], body: dict[str, Any], data: st.DataObject
) -> None:
    free, about = whole(client, CHAT, body)
    stops = data.draw(stops_in([answer.text for answer in free]), label="stop")
    if stops:
        body = {**body, "stop": stops}
    cut_off, about_cut = whole(client, CHAT, body)
    assert rounded(streamed(client, CHAT, body)) == rounded((cut_off, about_cut))
    expected = [cut(answer, stops) for answer in free]
    assert rounded(cut_off) == rounded([answer for answer, _ in expected])
    num_tokens = about_cut["usage"]["completion_tokens"]
    if all(counted for _, counted in expected):
        assert num_tokens == sum(counted or 0 for _, counted in expected)
    assert num_tokens <= about["usage"]["completion_tokens"]
    no_numbers = {**body, "logprobs": False, "top_logprobs": 0}
    plain = ([answer._replace(entries=None) for answer in cut_off], about_cut)
    assert whole(client, CHAT, no_numbers) == streamed(client, CHAT, no_numbers) == plain


def first_cut(text: str, stops: list[str]) -> str:
    """Before the stop string that is whole first."""
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(found)[1]] if found else text


@anything
@given(body=completion_bodies, data=st.data())
def test_a_completion_is_the_same_whole_and_streamed_and_its_tokens_are_where_they_are_said_to_be(
    client: TestClient[Litestar], body: dict[str, Any], data: st.DataObject
) -> None:
    free, _ = whole(client, COMPLETIONS, {**body, "echo": False})
    texts = [answer.text for answer in free]
    stops = data.draw(stops_in(texts), label="stop")
    if stops:
        body = {**body, "stop": stops}
    answers, about = whole(client, COMPLETIONS, body)
    assert rounded(streamed(client, COMPLETIONS, body)) == rounded((answers, about))
    if not body.get("echo"):
        assert [answer.text for answer in answers] == [first_cut(text, stops) for text in texts]
    for answer in answers:
        for token, _, _, offset in answer.entries or []:
            assert token
            here = answer.text[offset : offset + len(token)]
            # Half a character has no place of its own, a token of the frame has no text.
            if not token.startswith(("bytes:", "<|")):
                assert here == token or (answer.text.endswith(here) and token.startswith(here))
