"""Calls as Qwen writes them: read from any pieces, and nothing of an answer lost."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verse.tool_calls import ToolCall, ToolCallReader, read_call, write_call

CALL = ToolCall(name="count", arguments='{"poem": "河\\n水", "n": 2}')
PIECES = (
    "<tool_call>",
    "</tool_call>",
    "<tool",
    "_call>",
    "</",
    "<",
    "\n",
    " ",
    "河",
    "{",
    "}",
    "a",
)
texts = st.lists(st.sampled_from((*PIECES, write_call(CALL))), max_size=12).map("".join)


def read(*pieces: str) -> list[str | ToolCall]:
    """All parts, neighbouring texts put together."""
    reader, parts = ToolCallReader(), list[str | ToolCall]()
    for part in [part for piece in pieces for part in reader.push(piece)] + reader.flush():
        if isinstance(part, str) and parts and isinstance(parts[-1], str):
            parts[-1] += part
        else:
            parts.append(part)
    return parts


def test_a_written_call_is_read_back() -> None:
    assert read(write_call(CALL)) == [CALL]
    assert read(f"我数一数。\n{write_call(CALL)}\n{write_call(CALL)}\n") == [
        "我数一数。",
        CALL,
        CALL,
    ]


@given(text=texts, size=st.integers(1, 7))
def test_pieces_of_any_size_are_read_like_the_whole(text: str, size: int) -> None:
    assert read(*(text[i : i + size] for i in range(0, len(text), size))) == read(text)


@given(text=texts)
def test_a_text_without_a_whole_call_goes_through_as_it_is(text: str) -> None:
    parts = read(text)
    if all(isinstance(part, str) for part in parts):
        assert "".join(part for part in parts if isinstance(part, str)) == text
    else:
        assert text.count('"name"') == sum(isinstance(part, ToolCall) for part in parts) + sum(
            part.count('"name"') for part in parts if isinstance(part, str)
        )


def test_text_is_not_held_back_longer_than_it_must_be() -> None:
    reader = ToolCallReader()
    assert reader.push("河水 ") == ["河水"]
    assert reader.push("流 <tool") == [" 流"]
    assert reader.push("s>") == [" <tools>"]
    assert reader.push("<tool_call>{") == []
    assert reader.flush() == ["<tool_call>{"]


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('{"name": "f", "arguments": {"a": 1}}', '{"a": 1}'),
        ('\n{"name": "f", "arguments": {"a":1}}\n', '{"a":1}'),
        ('{"name": "f", "parameters": {"a": 1}}', '{"a": 1}'),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', '{"a": 1}'),
        ('{"name": "f"}', "{}"),
        ('{"arguments": {}, "name": "f", "id": 3}', "{}"),
    ],
)
def test_what_models_write_for_a_call_is_one(written: str, arguments: str) -> None:
    assert read_call(written) == ToolCall(name="f", arguments=arguments)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "{",
        "[]",
        '{"name": ""}',
        '{"name": 1, "arguments": {}}',
        '{"arguments": {}}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "1"}',
        '{"name": "f", "arguments": {}} {}',
        '{"name": "f", "arguments": ' + "[" * 5000,
    ],
)
def test_what_is_no_call_stays_text(written: str) -> None:
    assert read_call(written) is None
    text = f"<tool_call>{written}</tool_call>"
    assert read(text) == [text]


def test_the_last_call_may_lack_its_closing_tag_but_not_its_end() -> None:
    text = write_call(CALL)
    assert read(text.removesuffix("</tool_call>")) == [CALL]
    assert read(text[:-20]) == [text[:-20]]


def test_arguments_that_are_no_object_are_written_as_they_are() -> None:
    call = ToolCall(name="f", arguments='{"a": ')
    written = write_call(call).splitlines()[1]
    assert json.loads(written) == {"name": "f", "arguments": '{"a": '}
