"""What a request wants with `tools`: whether one may or must be called, and what holds a call.

A call that must be made is structured output: the engine follows the schema of the arguments, or
of `{"name": ..., "arguments": ...}` where there is a choice, and needs no model that knows tools.
A call that may be made is the model's own doing, in the form that `verse.tool_calls` reads.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import msgspec
from msgspec import UNSET

from verse.prompt import Message, Tool, ToolCallMessage, ToolResultMessage
from verse.tool_calls import CALL_CLOSES, ToolCall
from verse_server.api.errors import RequestError
from verse_server.engine.types import BaseInfo, Constraint, Target
from verse_server.protocol.chat import (
    ChatCompletionMessageParam,
    ChatCompletionRequest,
)
from verse_server.protocol.tools import (
    ChatCompletionAllowedToolChoice,
    ChatCompletionNamedToolChoice,
    FunctionDefinition,
)

_MAX_BYTES = 1 << 16
"""Of schemas. The engine refuses longer ones as they are, and to go through them takes a while."""


class ToolUse(msgspec.Struct, frozen=True, kw_only=True):
    """Which functions an answer may call, and whether it has to."""

    mode: Literal["auto", "required", "named"]
    functions: tuple[FunctionDefinition, ...]
    parallel: bool = True
    """Whether an answer may hold several calls."""

    @property
    def is_forced(self) -> bool:
        """Whether the answer is a call and nothing else."""
        return self.mode != "auto"

    @property
    def only_function(self) -> str | None:
        """The one that a forced answer calls, if there is no choice."""
        return self.functions[0].name if self.is_forced and len(self.functions) == 1 else None

    @property
    def stop(self) -> tuple[str, ...]:
        """What ends an answer besides the request's own stop strings."""
        return () if self.is_forced or self.parallel else (CALL_CLOSES,)

    @property
    def constraint(self) -> Constraint | None:
        """What the text of a forced answer follows."""
        if not self.is_forced:
            return None
        given = msgspec.json.encode({"anyOf": [f.parameters or {} for f in self.functions]})
        if len(given) > _MAX_BYTES:
            return Constraint("json_schema", given.decode(), "tools")
        if self.only_function is not None:
            schema = arguments_schema(self.functions[0])
        else:
            schema = {"anyOf": _choices(self.functions)}
        return Constraint("json_schema", msgspec.json.encode(schema).decode(), "tools")

    def shown(self) -> list[Tool]:
        """The functions as chat templates take them."""
        return [
            {"type": "function", "function": _without_nulls(function)}
            for function in self.functions
        ]


def tool_use(request: ChatCompletionRequest) -> ToolUse | None:
    """What is asked for; None if no tool is to be called.

    Raises:
        RequestError: `tool_choice` asks for tools that are not there.
    """
    functions = {tool.function.name: tool.function for tool in request.tools or ()}
    choice = request.tool_choice if request.tool_choice is not None else "auto"
    if choice == "none" or (choice == "auto" and not functions):
        return None
    if not functions:
        raise RequestError(
            "'tool_choice' needs 'tools' to choose from; send them or leave it out.",
            param="tool_choice",
        )
    match choice:
        case ChatCompletionNamedToolChoice():
            mode, names = "named", [choice.function.name]
        case ChatCompletionAllowedToolChoice():
            allowed = choice.allowed_tools
            mode, names = allowed.mode, [tool.function.name for tool in allowed.tools]
        case _:
            mode, names = choice, list(functions)
    unknown = next((name for name in names if name not in functions), None)
    if unknown is not None:
        raise RequestError(
            f"'tool_choice' names {unknown!r}, which is not among 'tools'; "
            f"those are {', '.join(functions)}.",
            param="tool_choice",
        )
    return ToolUse(
        mode=mode,
        functions=tuple(functions[name] for name in dict.fromkeys(names)),
        parallel=request.parallel_tool_calls is not False,
    )


def check_free_choice(
    use: ToolUse | None, request: ChatCompletionRequest, base: BaseInfo, target: Target
) -> None:
    """Refuse calls that the model would have to choose itself where it cannot.

    Raises:
        RequestError: the frame that the prompt is written in shows no tools.
    """
    if use is None or use.is_forced or shows_tools(base, target):
        return
    raise RequestError(
        f"The chat template of {target.model!r} knows no tools that are called as '<tool_call>', "
        "so the model cannot choose one by itself; set 'tool_choice' to 'required' or to one "
        "function, or use 'response_format' with a 'json_schema'.",
        param="tools" if request.tool_choice is None else "tool_choice",
        code="unsupported_parameter",
    )


def shows_tools(base: BaseInfo, target: Target) -> bool:
    """Whether a prompt can tell the model about tools."""
    return base.knows_tools and target.prompt_format.format == "chat"


def check_turn(turn: ChatCompletionMessageParam, number: int) -> None:
    """Refuse a message whose fields do not fit its role.

    Raises:
        RequestError: 400 with `param`.
    """
    at = f"messages[{number}]"
    if turn.content is UNSET and turn.role != "assistant":
        raise _missing(f"{at}.content")
    if turn.content is None and turn.role != "assistant":
        raise RequestError(
            f"Invalid type for '{at}.content': expected one of a string or an array, but got null "
            "instead.",
            param=f"{at}.content",
            code="invalid_type",
        )
    if turn.tool_calls and turn.role != "assistant":
        raise RequestError(
            f"'{at}.tool_calls' is for messages of the assistant; leave it out.",
            param=f"{at}.tool_calls",
        )
    if turn.role == "tool" and turn.tool_call_id is None:
        raise _missing(f"{at}.tool_call_id")
    if turn.role != "tool" and turn.tool_call_id is not None:
        raise RequestError(
            f"'{at}.tool_call_id' is for messages of a tool; leave it out.",
            param=f"{at}.tool_call_id",
        )


def _missing(param: str) -> RequestError:
    return RequestError(
        f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
    )


def message_of(turn: ChatCompletionMessageParam) -> Message:
    """A turn as the prompt formats know it: `developer` is `system`, parts are one text."""
    content = turn.content or ""
    if not isinstance(content, str):
        content = "".join(part.text for part in content)
    match turn.role:
        case "tool":
            return ToolResultMessage("user", content, call_id=turn.tool_call_id or "")
        case "assistant" if turn.tool_calls:
            calls = tuple(
                ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
                for call in turn.tool_calls
            )
            return ToolCallMessage("assistant", content, calls=calls)
        case "developer":
            return Message("system", content)
        case _:
            return Message(turn.role, content)


def arguments_schema(function: FunctionDefinition) -> dict[str, Any]:
    """The schema that holds the arguments of a call; no field that nobody named can be in them.

    Raises:
        RequestError: it is no schema of an object.
    """
    schema = function.parameters or {"properties": {}}
    if schema.get("type", "object") != "object":
        raise RequestError(
            f"The parameters of the function {function.name!r} must be a schema of type 'object'.",
            param="tools",
        )
    closed = _closed({"type": "object", **schema})
    assert isinstance(closed, dict)
    return cast(dict[str, Any], closed)


_NO_SCHEMAS_BELOW = frozenset({"const", "default", "enum", "examples"})
_SCHEMAS_BY_NAME = frozenset(
    {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
)
_COMPOSED = frozenset({"$ref", "allOf", "anyOf", "oneOf", "patternProperties"})


def _changed_below(schema: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """A schema with every schema right below it changed."""

    def below(key: str, value: Any) -> Any:
        if key in _NO_SCHEMAS_BELOW:
            return value
        if isinstance(value, list):
            return [change(item) for item in cast(list[Any], value)]
        if key in _SCHEMAS_BY_NAME and isinstance(value, dict):
            named = cast(dict[str, Any], value)
            return {name: change(item) for name, item in named.items()}
        return change(value)

    return {key: below(key, value) for key, value in schema.items()}


def _closed(schema: Any) -> Any:
    """Objects whose fields are listed get no others, as in OpenAI's strict mode.

    Any other field is allowed by JSON Schema, is of no use to a function, and is what small models
    write for ever. Left as they are: objects that are put together from several schemas.
    """
    if not isinstance(schema, dict):
        return schema
    fields = cast(dict[str, Any], schema)
    closed = _changed_below(fields, _closed)
    if "allOf" in fields:
        closed["allOf"] = fields["allOf"]
    lists_fields = isinstance(fields.get("properties"), dict) and not _COMPOSED & fields.keys()
    return {"additionalProperties": False, **closed} if lists_fields else closed


def _choices(functions: Sequence[FunctionDefinition]) -> list[dict[str, Any]]:
    """One schema a function, of its name and its arguments."""
    return [
        {
            "type": "object",
            "properties": {
                "name": {"const": function.name},
                "arguments": _moved(
                    arguments_schema(function), f"#/anyOf/{number}/properties/arguments"
                ),
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for number, function in enumerate(functions)
    ]


def _moved(schema: Any, root: str) -> Any:
    """A schema whose references still hold when it stands below another one's root."""
    if not isinstance(schema, dict):
        return schema
    moved = _changed_below(cast(dict[str, Any], schema), lambda below: _moved(below, root))
    reference = moved.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = root + reference[1:]
    return moved


def _without_nulls(record: msgspec.Struct) -> Mapping[str, Any]:
    fields = cast(dict[str, Any], msgspec.to_builtins(record))
    return {name: value for name, value in fields.items() if value is not None}
