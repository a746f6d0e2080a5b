"""Schemas that would keep the compiler busy, or overflow its stack, are named and refused."""

import json
from typing import Any

import pytest

from verse_server.engine.sampling.grammar import schema_excess


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def chain(length: int) -> dict[str, Any]:
    steps = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}]} for i in range(length)}
    return {"$defs": steps, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    ("schema", "about"),
    [
        ({"const": "诗" * 22_000}, "bytes"),
        (nested(65), "deeper"),
        (nested(30_000), "bytes"),
        (chain(260), "objects"),
        ({"properties": {f"p{i}": {} for i in range(500)}}, "objects"),
        ({"multipleOf": 1009}, "remainders"),
        ({"multipleOf": 1.009}, "remainders"),
        ({"allOf": [{"multipleOf": 31}, {"multipleOf": 37}]}, "remainders"),
    ],
)
def test_too_much_is_named(schema: dict[str, Any], about: str) -> None:
    excess = schema_excess(dumped(schema))
    assert excess is not None
    assert about in excess


@pytest.mark.parametrize(
    "schema",
    [
        {},
        nested(60),
        chain(240),
        {"properties": {f"p{i}": {"multipleOf": 10} for i in range(400)}},
        {"multipleOf": 1_000_000},
        {"multipleOf": 0.01},
        {"multipleOf": 0},
        {"properties": {"multipleOf": {"type": "integer"}}},
        {"enum": [f"value {i}" for i in range(3000)]},
    ],
)
def test_what_a_person_would_write_passes(schema: dict[str, Any]) -> None:
    assert schema_excess(dumped(schema)) is None


def dumped(schema: dict[str, Any]) -> str:
    text, levels = json.dumps({}), 0
    while list(schema) == ["items"]:  # json.dumps would recurse
        schema, levels = schema["items"], levels + 1
    text = json.dumps(schema, ensure_ascii=False)
    return '{"items": ' * levels + text + "}" * levels
