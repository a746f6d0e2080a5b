"""In which form a server takes a question: found out by asking, one step down at a time.

Servers differ in `response_format` (json_schema, json_object, or none of it), some models want
`max_completion_tokens` for `max_tokens`, and some take no `temperature`.
"""

from typing import Any, Literal

import msgspec

from verse.records import AnswerFormat
from verse_clients.errors import BadRequestError
from verse_clients.judge.prompt_files import Kind
from verse_clients.judge.replies import schema_of

_LOWER: dict[AnswerFormat, AnswerFormat] = {"json_schema": "json_object", "json_object": "text"}
_NAMES_FORMAT = ("response_format", "json_schema", "json_object", "schema")
_NOT_THE_FORM = ("context_length_exceeded", "content_policy_violation")


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """How one model of one server is asked."""

    format: AnswerFormat = "json_schema"
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    takes_temperature: bool = True
    is_proven: bool = False
    """Whether it was answered once: then an unclear refusal is about the question."""


def response_format(dialect: Dialect, kind: Kind) -> dict[str, Any] | None:
    """The request's field; None to leave it out."""
    match dialect.format:
        case "json_schema":
            schema = {"name": kind, "strict": True, "schema": schema_of(kind)}
            return {"type": "json_schema", "json_schema": schema}
        case "json_object":
            return {"type": "json_object"}
        case "text":
            return None


def after_refusal(dialect: Dialect, error: BadRequestError) -> Dialect | None:
    """The form to try next; None if the refusal is not about the form."""
    said = str(error).lower()
    if "max_completion_tokens" in said and dialect.limit == "max_tokens":
        return msgspec.structs.replace(dialect, limit="max_completion_tokens")
    if "temperature" in said and dialect.takes_temperature:
        return msgspec.structs.replace(dialect, takes_temperature=False)
    names_format = any(name in said for name in _NAMES_FORMAT)
    is_unclear = not dialect.is_proven and error.code not in _NOT_THE_FORM
    if dialect.format != "text" and (names_format or is_unclear):
        return msgspec.structs.replace(dialect, format=_LOWER[dialect.format])
    return None
