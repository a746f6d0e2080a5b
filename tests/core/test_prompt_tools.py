"""Tools in the prompt: by the chat template where it knows them, as text where it does not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.tokenizer import (
    QWEN3_ADDED,
    QWEN3_TEMPLATE,
    QWEN25_TEMPLATE,
    TOOLS_ADDED,
    TOOLS_TEMPLATE,
    make_tokenizer,
)
from verse.prompt import (
    Message,
    PromptFormat,
    Tool,
    ToolCallMessage,
    ToolResultMessage,
    render,
    template_knows_tools,
)
from verse.tool_calls import ToolCall

TINY = make_tokenizer()
KNOWING = make_tokenizer(TOOLS_TEMPLATE, TOOLS_ADDED)
CHAT = PromptFormat()
COUNT: Tool = {"type": "function", "function": {"name": "count", "description": "Counts lines."}}
ASKED = Message("user", "河")
CALLED = ToolCallMessage(
    "assistant", "数。", calls=(ToolCall(id="call_1", name="count", arguments='{"n":1}'),)
)
TOLD = ToolResultMessage("user", "四行", call_id="call_1")
IN_TEXT = '<tool_call>\n{"name": "count", "arguments": {"n":1}}\n</tool_call>'
nasty = st.lists(
    st.sampled_from(
        ("<|im_end|>", "<tool_call>", "</tool_", "call>", "<|im_", "end|>", "河", '"', "\\")
    ),
    max_size=6,
).map("".join)


def test_a_template_that_shows_tools_and_calls_is_known_by_trying() -> None:
    assert template_knows_tools(KNOWING)
    assert template_knows_tools(make_tokenizer(TOOLS_TEMPLATE))


@pytest.mark.parametrize(
    "template",
    [
        None,
        QWEN25_TEMPLATE,
        QWEN3_TEMPLATE,
        "{{ raise_exception('no') }}",
        TOOLS_TEMPLATE.replace("tool | tojson", "''"),
        TOOLS_TEMPLATE.replace("<tool_call>", "[CALL]"),
        TOOLS_TEMPLATE.replace("<tool_response>\\n' + m['content']", "'"),
    ],
)
def test_a_template_that_leaves_something_out_knows_none(template: str | None) -> None:
    assert not template_knows_tools(make_tokenizer(template, QWEN3_ADDED))


def test_the_template_gets_tools_calls_and_results() -> None:
    rendered = render(
        [ASKED, CALLED, TOLD], CHAT, KNOWING, add_generation_prompt=True, tools=[COUNT]
    )
    text = KNOWING.decode(rendered.token_ids)
    assert '{"type": "function", "function": {"name": "count", "description": "Counts' in text
    assert (
        '<|im_start|>assistant\n数。\n<tool_call>\n{"name": "count", "arguments": {"n": 1}}' in text
    )
    assert "<tool_response>\n四行\n</tool_response>" in text
    assert text.endswith("<|im_start|>assistant\n")


def test_a_template_that_knows_none_gets_calls_and_results_as_text() -> None:
    rendered = render([ASKED, CALLED, TOLD], CHAT, TINY, add_generation_prompt=True)
    assert TINY.decode(rendered.token_ids) == (
        "<|im_start|>user\n河<|im_end|>\n"
        f"<|im_start|>assistant\n数。\n{IN_TEXT}<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n四行\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("format_", ["seed-chatml", "seed-generate"])
def test_the_seed_frames_have_room_for_text_alone(format_: str) -> None:
    prompt_format = PromptFormat(format=format_)  # pyright: ignore[reportArgumentType]
    rendered = render([ASKED, CALLED, TOLD], prompt_format, KNOWING, tools=[COUNT])
    text = KNOWING.decode(rendered.token_ids)
    assert IN_TEXT in text
    assert "Counts lines" not in text


@given(text=nasty)
def test_what_looks_like_a_token_in_tools_and_calls_stays_text(text: str) -> None:
    tool: Tool = {"type": "function", "function": {"name": "f", "description": text, text: [text]}}
    arguments = json.dumps({"a": "<|im_end|>" + text}).replace("<", "\\u003c")
    calls = (ToolCall(id="1", name="f" + text, arguments=arguments),)
    turns = [ASKED, ToolCallMessage("assistant", text, calls=calls), TOLD]
    for tools, tokenizer in (([tool], KNOWING), (None, KNOWING)):
        rendered = render(turns, CHAT, tokenizer, tools=tools)
        added = tokenizer.get_added_vocab()
        ends = sum(token == added["<|im_end|>"] for token in rendered.token_ids)
        opened = sum(token == added["<tool_call>"] for token in rendered.token_ids)
        assert (ends, opened) == ((4, 2) if tools else (3, 0))
