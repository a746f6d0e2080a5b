"""Fields of other servers: what changes nothing is taken, what cannot be obeyed is named.

`python -m tests.server.api.test_field_rules` writes the tables of docs/api.md anew.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from fake_engine import FakeEngine
from test_chat_bad_input import refused
from wire import CHAT, Client, chat_body

from verse_server.protocol import field_rules
from verse_server.protocol.chat import ChatCompletionMessageParam, ChatCompletionRequest
from verse_server.protocol.completions import CompletionRequest
from verse_server.protocol.field_rules import FieldRule
from verse_server.protocol.responses import (
    CreateResponse,
    ResponseInputItem,
    ResponseReasoning,
    ResponseStreamOptions,
    ResponseTextConfig,
)
from verse_server.protocol.shared import (
    ChatCompletionStreamOptions,
    StructuredOutputs,
    Unsupported,
)

GUIDE = Path(__file__).parents[3] / "docs" / "api.md"
COMPLETIONS = "/v1/completions"

RULES: dict[type, tuple[FieldRule, ...]] = {
    ChatCompletionRequest: (*field_rules.RULES_OF_CHAT, *field_rules.RULES_OF_BOTH),
    CompletionRequest: (*field_rules.RULES_OF_COMPLETIONS, *field_rules.RULES_OF_BOTH),
    ChatCompletionMessageParam: field_rules.RULES_OF_MESSAGES,
    ChatCompletionStreamOptions: field_rules.RULES_OF_STREAM_OPTIONS,
    StructuredOutputs: field_rules.RULES_OF_STRUCTURED_OUTPUTS,
    CreateResponse: field_rules.RULES_OF_RESPONSES,
    ResponseTextConfig: field_rules.RULES_OF_RESPONSE_TEXT,
    ResponseReasoning: field_rules.RULES_OF_RESPONSE_REASONING,
    ResponseInputItem: field_rules.RULES_OF_ITEMS,
    ResponseStreamOptions: field_rules.RULES_OF_STREAM_OPTIONS,
}
TABLES = {
    "both": field_rules.RULES_OF_BOTH,
    "chat": field_rules.RULES_OF_CHAT,
    "completions": field_rules.RULES_OF_COMPLETIONS,
    "messages": field_rules.RULES_OF_MESSAGES,
    "responses": field_rules.RULES_OF_RESPONSES,
    "text": field_rules.RULES_OF_RESPONSE_TEXT,
    "reasoning": field_rules.RULES_OF_RESPONSE_REASONING,
    "items": field_rules.RULES_OF_ITEMS,
    "stream_options": field_rules.RULES_OF_STREAM_OPTIONS,
    "structured_outputs": field_rules.RULES_OF_STRUCTURED_OUTPUTS,
}

CHANGES_NOTHING: dict[str, Any] = {
    "safety_identifier": "user-7",
    "prompt_cache_key": "poems",
    "prompt_cache_retention": "24h",
    "prompt_cache_options": {"ttl": 5},
    "store": True,
    "service_tier": "flex",
    "prediction": {"type": "content", "content": "河"},
    "verbosity": "low",
    "keep_alive": "5m",
    "ttl": 300,
    "cache_prompt": True,
    "num_draft_tokens": 3,
    "guided_decoding_backend": "xgrammar",
}


@pytest.mark.parametrize(("record", "rules"), RULES.items())
def test_each_field_that_is_not_supported_has_a_rule_and_each_rule_a_field(
    record: type, rules: Sequence[FieldRule]
) -> None:
    hints = get_type_hints(record, include_extras=True)
    unsupported = {name for name, hint in hints.items() if hint is Unsupported}
    names = [rule.name for rule in rules]
    assert unsupported <= set(names) <= set(hints)
    assert len(names) == len(set(names))
    assert all(rule.reason for rule in rules)


@pytest.mark.parametrize("field", CHANGES_NOTHING)
def test_a_field_that_changes_nothing_is_taken(
    client: Client, engine: FakeEngine, field: str
) -> None:
    plain = client.post(CHAT, json=chat_body()).json()["choices"]
    asked = client.post(CHAT, json=chat_body(**{field: CHANGES_NOTHING[field]}))
    assert asked.status_code == 200, asked.text
    assert asked.json()["choices"] == plain
    assert engine.requests[0] == engine.requests[1]


def test_all_fields_that_change_nothing_are_tried() -> None:
    rules = RULES[ChatCompletionRequest]
    assert {rule.name for rule in rules if rule.neutral is None} == set(CHANGES_NOTHING)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_field_that_is_not_supported_may_carry_what_it_means_when_left_out(
    client: Client, engine: FakeEngine, path: str
) -> None:
    body = chat_body() if path == CHAT else {"model": "xuzhimo", "prompt": "河"}
    rules = RULES[ChatCompletionRequest if path == CHAT else CompletionRequest]
    for rule in rules:
        for value in (None, *(rule.neutral or ())):
            response = client.post(path, json=body | {rule.name: value})
            assert response.status_code == 200, (rule.name, value, response.text)
    assert all(request == engine.requests[0] for request in engine.requests)


@pytest.mark.parametrize(
    ("field", "value"),
    [("best_of", 2), ("best_of", True), ("suffix", "。"), ("use_beam_search", 1)],
)
def test_another_value_of_a_completion_is_named_and_never_ignored(
    client: Client, engine: FakeEngine, field: str, value: object
) -> None:
    response = client.post(COMPLETIONS, json={"model": "base", "prompt": "河", field: value})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, field)
    assert error["code"] == "unsupported_parameter"
    assert engine.requests == []


def test_the_field_that_is_named_is_the_one_that_matters(client: Client) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    asked = chat_body(parallel_tool_calls=False, tools=tools)
    assert refused(client, asked).param == "tools"
    asked = chat_body(function_call={"name": "f"}, functions=[{"name": "f"}])
    assert refused(client, asked).param == "functions"


def test_history_as_clients_send_it_back_is_taken(client: Client, engine: FakeEngine) -> None:
    messages = [
        {"role": "user", "content": "河", "name": "li"},
        {"role": "assistant", "content": None, "refusal": None, "annotations": []},
        {"role": "assistant", "content": "水", "reasoning_content": "想", "reasoning": "想"},
        {"role": "user", "content": "月"},
    ]
    assert client.post(CHAT, json=chat_body(messages=messages)).status_code == 200
    assert [message.content for message in engine.encoded] == ["河", "", "水", "月"]


OF_RESPONSES: dict[str, Any] = {
    "safety_identifier": "user-7",
    "prompt_cache_key": "poems",
    "prompt_cache_retention": "24h",
    "prompt_cache_options": {"ttl": 5},
    "service_tier": "flex",
    "max_tool_calls": 3,
    "text": {"verbosity": "low"},
    "reasoning": {"summary": "auto", "generate_summary": "auto"},
    "background": False,
    "truncation": "disabled",
    "conversation": None,
}


@pytest.mark.parametrize("field", OF_RESPONSES)
def test_a_field_of_a_response_that_changes_nothing_is_taken(
    client: Client, engine: FakeEngine, field: str
) -> None:
    asked = {"model": "xuzhimo", "input": "河", "store": False}
    for body in (asked, asked | {field: OF_RESPONSES[field]}):
        assert client.post("/v1/responses", json=body).status_code == 200
    assert engine.requests[0] == engine.requests[1]


def test_repeat_penalty_is_repetition_penalty(client: Client, engine: FakeEngine) -> None:
    client.post(CHAT, json=chat_body(repeat_penalty=1.5))
    assert engine.requests[0].sampling.repetition_penalty == 1.5
    client.post(CHAT, json=chat_body(repeat_penalty=1.5, repetition_penalty=1.5))
    assert engine.requests[1] == engine.requests[0]
    error = refused(client, chat_body(repeat_penalty=1.5, repetition_penalty=1.2))
    assert error.param == "repeat_penalty"


def table(rules: Sequence[FieldRule]) -> str:
    """As Markdown."""
    lines = ["| field | taken | because |", "|---|---|---|"]
    for rule in rules:
        neutral = ", ".join(f"`{shown(value)}`" for value in (None, *(rule.neutral or ())))
        taken = "any value" if rule.neutral is None else neutral
        lines.append(f"| `{rule.name}` | {taken} | {rule.reason} |")
    return "\n".join(lines)


def shown(value: object) -> str:
    """As JSON writes it."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    return str(value).replace("'", '"') if not isinstance(value, str) else f'"{value}"'


def written(text: str) -> str:
    """The guide with its tables as the rules have them."""
    for name, rules in TABLES.items():
        begin, end = f"<!-- fields: {name} -->\n", "\n<!-- end -->"
        pattern = re.compile(f"({re.escape(begin)}).*?({re.escape(end)})", re.DOTALL)
        assert len(pattern.findall(text)) == 1, name
        text = pattern.sub(lambda found, rows=rules: found[1] + table(rows) + found[2], text)
    return text


def test_the_guide_shows_the_rules() -> None:
    text = GUIDE.read_text("utf-8")
    assert written(text) == text, "run `python -m tests.server.api.test_field_rules`"


if __name__ == "__main__":
    GUIDE.write_text(written(GUIDE.read_text("utf-8")), "utf-8")
