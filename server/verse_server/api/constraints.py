"""What a request says that its answers must follow, in any of the spellings that clients use."""

from collections.abc import Iterator
from typing import Any

import msgspec

from verse_server.api.errors import RequestError
from verse_server.api.tools import ToolUse
from verse_server.engine.types import Constraint
from verse_server.protocol.chat import (
    ResponseFormat,
    ResponseFormatGrammar,
    ResponseFormatJSONObject,
    ResponseFormatJSONSchema,
)
from verse_server.protocol.shared import SamplingRequest

_ANY_OBJECT = '{"type": "object"}'


def constraint_of(
    request: SamplingRequest,
    response_format: ResponseFormat | None = None,
    use: ToolUse | None = None,
) -> Constraint | None:
    """The one thing that all answers to a request follow; None if they are free.

    A tool that must be called leaves a `response_format` nothing to say; one that may be called
    goes with none.

    Raises:
        RequestError: it asks for two, for nothing where something is to be asked for, or for an
            answer that goes on where its grammar ends.
    """
    asked = [*_of_structured_outputs(request), *_of_guided(request)]
    if use is not None and (forced := use.constraint) is not None:
        asked = [forced, *asked]
    else:
        asked = [*_of_format(response_format), *asked]
        if use is not None and asked:
            raise RequestError(
                f"'{asked[0].param}' does not go with tools that may be called; set 'tool_choice' "
                f"to 'required' or 'none', or leave '{asked[0].param}' out.",
                param=asked[0].param,
            )
    if len(asked) > 1:
        raise RequestError(
            f"'{asked[0].param}' and '{asked[1].param}' both say what the answer must follow; "
            "keep one.",
            param=asked[1].param,
        )
    if not asked:
        return None
    for name in ("ignore_eos", "min_tokens"):
        if getattr(request, name):
            raise RequestError(
                f"'{name}' does not go with '{asked[0].param}', which ends the answer; "
                "leave one of them out.",
                param=name,
            )
    return asked[0]


def _of_format(wanted: ResponseFormat | None) -> Iterator[Constraint]:
    match wanted:
        case ResponseFormatJSONObject():
            yield Constraint("json_schema", _ANY_OBJECT)
        case ResponseFormatJSONSchema():
            yield Constraint("json_schema", _json(wanted.json_schema.schema))
        case ResponseFormatGrammar():
            yield Constraint("grammar", wanted.grammar)
        case _:
            pass


def _of_structured_outputs(request: SamplingRequest) -> Iterator[Constraint]:
    outputs, param = request.structured_outputs, "structured_outputs"
    if outputs is None:
        return
    asked = list(
        _spelled(f"{param}.", outputs.json, outputs.regex, outputs.choice, outputs.grammar)
    )
    if outputs.json_object:
        asked.append(Constraint("json_schema", _ANY_OBJECT, f"{param}.json_object"))
    if not asked:
        raise RequestError(
            f"'{param}' asks for nothing; set json, json_object, regex, choice or grammar in it.",
            param=param,
        )
    yield from asked


def _of_guided(request: SamplingRequest) -> Iterator[Constraint]:
    return _spelled(
        "guided_",
        request.guided_json,
        request.guided_regex,
        request.guided_choice,
        request.guided_grammar,
    )


def _spelled(
    prefix: str,
    schema: str | dict[str, Any] | None,
    regex: str | None,
    choice: list[str] | None,
    grammar: str | None,
) -> Iterator[Constraint]:
    if schema is not None:
        param = f"{prefix}json"
        yield Constraint("json_schema", _schema_text(schema, param), param)
    if regex is not None:
        yield Constraint("regex", regex, f"{prefix}regex")
    if choice is not None:
        yield Constraint("choice", _json(choice), f"{prefix}choice")
    if grammar is not None:
        yield Constraint("grammar", grammar, f"{prefix}grammar")


def _schema_text(schema: str | dict[str, Any], param: str) -> str:
    """A schema's text, whichever way it came; the order of its keys stays."""
    if isinstance(schema, str):
        try:
            schema = msgspec.json.decode(schema, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError) as error:
            raise RequestError(
                f"The text of '{param}' is no JSON schema: {error}.", param=param
            ) from None
    return _json(schema)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
