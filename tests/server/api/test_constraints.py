"""Schemas, regular expressions, choices and grammars in vLLM's spellings."""

from typing import Any

import pytest
from fake_engine import FakeEngine
from test_chat_bad_input import refused
from wire import CHAT, Client, chat_body

from verse_server.engine.types import Constraint

OBJECT = '{"type":"object"}'
FORMAT: dict[str, Any] = {"type": "json_object"}


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        (
            {"response_format": {"type": "grammar", "grammar": 'start: "a"'}},
            Constraint("grammar", 'start: "a"'),
        ),
        ({"guided_json": {"type": "object"}}, Constraint("json_schema", OBJECT, "guided_json")),
        ({"guided_json": '{"type": "object"}'}, Constraint("json_schema", OBJECT, "guided_json")),
        ({"guided_regex": "河+"}, Constraint("regex", "河+", "guided_regex")),
        ({"guided_choice": ["静", "悲"]}, Constraint("choice", '["静","悲"]', "guided_choice")),
        ({"guided_grammar": "root ::= x"}, Constraint("grammar", "root ::= x", "guided_grammar")),
        (
            {"structured_outputs": {"regex": "河+", "disable_fallback": True}},
            Constraint("regex", "河+", "structured_outputs.regex"),
        ),
        (
            {"structured_outputs": {"choice": ["静"]}},
            Constraint("choice", '["静"]', "structured_outputs.choice"),
        ),
        (
            {"structured_outputs": {"json": {"type": "object"}}},
            Constraint("json_schema", OBJECT, "structured_outputs.json"),
        ),
        (
            {"structured_outputs": {"json_object": True}},
            Constraint("json_schema", '{"type": "object"}', "structured_outputs.json_object"),
        ),
        ({"structured_outputs": None, "guided_json": None}, None),
    ],
)
def test_each_spelling_reaches_the_engine(
    client: Client, engine: FakeEngine, fields: dict[str, Any], constraint: Constraint | None
) -> None:
    assert client.post(CHAT, json=chat_body(**fields)).status_code == 200
    assert engine.requests[0].constraint == constraint
    if "response_format" not in fields:
        body = {"model": "base", "prompt": ["河", "月"], **fields}
        assert client.post("/v1/completions", json=body).status_code == 200
        assert {request.constraint for request in engine.requests[1:]} == {constraint}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[]"}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": ["a", ""]}, "guided_choice[1]"),
        ({"guided_regex": ""}, "guided_regex"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
        ({"response_format": FORMAT, "guided_regex": "a"}, "guided_regex"),
        ({"guided_regex": "a", "structured_outputs": {"choice": ["a"]}}, "guided_regex"),
        ({"response_format": {"type": "grammar"}}, "response_format.grammar"),
    ],
)
def test_what_says_nothing_or_two_things_is_refused(
    client: Client, engine: FakeEngine, fields: dict[str, Any], param: str
) -> None:
    assert refused(client, chat_body(**fields)).param == param
    assert engine.requests == []
