"""What handlers declare, and the OpenAPI document: Litestar's paths, msgspec's Structs.

Litestar describes a Struct by the types of its fields. msgspec decodes it, so it also knows bounds,
those inside lists and maps too, and that unknown fields are refused. What neither of them knows is
written out here: headers, streams, and fields that take only their default or go together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, ClassVar, cast, get_args

import msgspec
from litestar import Request
from litestar.di import NamedDependency
from litestar.enums import HttpMethod
from litestar.openapi import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Parameter,
    Reference,
    Schema,
    SecurityScheme,
)
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import SkipValidation

from verse_server.api.admission import DEADLINE_HEADER, PRIORITIES, PRIORITY_HEADER
from verse_server.engine.interface import Engine
from verse_server.jobs.runner import JobRunner
from verse_server.protocol import (
    batches,
    chat,
    completions,
    files,
    fine_tuning,
    models,
    page,
    response_events,
    responses,
    shared,
)
from verse_server.protocol import field_rules as rules
from verse_server.state.folder import ServerState

StateDependency = NamedDependency[SkipValidation[ServerState]]
"""What is kept; only behind `admission.require_jobs`."""

RunnerDependency = NamedDependency[SkipValidation[JobRunner]]
"""What trains; only behind the same guard."""

EngineDependency = NamedDependency[SkipValidation[Engine]]
"""The engine. It is a Protocol, so there is nothing for Litestar to validate."""

READ = (HttpMethod.GET, HttpMethod.HEAD)
"""HEAD answers as GET does; the server sends no body for it."""

API_KEY: dict[str, list[str]] = {"api_key": []}
"""The security requirement of what wants the key."""

_STRUCTS = (
    chat.ChatCompletionRequest,
    chat.ChatCompletion,
    chat.ChatCompletionChunk,
    completions.CompletionRequest,
    completions.Completion,
    batches.CreateBatchRequest,
    batches.BatchObject,
    batches.BatchList,
    responses.CreateResponse,
    responses.Response,
    responses.ResponseDeleted,
    responses.ResponseItemList,
    response_events.ResponseStreamEvent,
    models.ModelList,
    models.AdapterList,
    models.ProbeRequest,
    models.Probe,
    models.LoadLoRAAdapterRequest,
    models.UnloadLoRAAdapterRequest,
    models.HealthResponse,
    models.TokenizeRequest,
    models.TokenizeResponse,
    models.DetokenizeRequest,
    models.DetokenizeResponse,
    models.TokenizerInfoResponse,
    models.VersionResponse,
    files.FileObject,
    files.FileList,
    files.FileDeleted,
    page.ColumnsRequest,
    page.ColumnEvent,
    page.DecisionRequest,
    page.DecisionRecord,
    fine_tuning.FineTuningJobRequest,
    fine_tuning.FineTuningJob,
    fine_tuning.FineTuningJobList,
    fine_tuning.FineTuningJobEventList,
    fine_tuning.FineTuningJobCheckpointList,
    shared.ErrorResponse,
)
_RULES = {
    "ChatCompletionRequest": (
        *rules.RULES_OF_CHAT,
        *rules.RULES_OF_BOTH,
    ),
    "ChatCompletionMessageParam": rules.RULES_OF_MESSAGES,
    "CompletionRequest": (
        *rules.RULES_OF_COMPLETIONS,
        *rules.RULES_OF_BOTH,
    ),
    "ChatCompletionStreamOptions": rules.RULES_OF_STREAM_OPTIONS,
    "CreateResponse": rules.RULES_OF_RESPONSES,
    "ResponseTextConfig": rules.RULES_OF_RESPONSE_TEXT,
    "ResponseReasoning": rules.RULES_OF_RESPONSE_REASONING,
    "ResponseInputItem": rules.RULES_OF_ITEMS,
    "ResponseStreamOptions": rules.RULES_OF_STREAM_OPTIONS,
    "TokenizeRequest": rules.RULES_OF_TOKENIZE,
    "StructuredOutputs": rules.RULES_OF_STRUCTURED_OUTPUTS,
}
_STREAM_OPTIONS = ("stream_options", {"type": "object"}, "stream")
_NEEDS = {
    "ChatCompletionRequest": (
        _STREAM_OPTIONS,
        ("top_logprobs", {"type": "integer", "minimum": 1}, "logprobs"),
    ),
    "CompletionRequest": (_STREAM_OPTIONS,),
    "CreateResponse": (_STREAM_OPTIONS,),
}
"""A field that holds this needs that other field to be true."""

_ERRORS = {
    400: "The request is invalid; `param` names the field or header, if one is at fault.",
    401: "The API key is missing or wrong.",
    403: "Files and jobs are off on this server; it was started without `--jobs`.",
    404: "Nothing has this name or id.",
    409: "The adapter is there but cannot be served, or the job is in another state.",
    413: "The body is too large.",
    429: "Too many requests wait already.",
    500: "The server failed; its log has the cause.",
    503: "The server is shutting down, or the adapter's files are being replaced.",
    504: "The answer was not finished in time.",
    507: "The server's disk is full; nothing was kept.",
}
_ENVELOPE = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}
_REQUEST_ID = {"x-request-id": {"description": "Names the request in the log.", "required": True}}
_HEADERS = {
    "401": {"WWW-Authenticate": {"description": "`Bearer`.", "required": True}},
    "429": {"Retry-After": {"description": "In seconds.", "required": True}},
    "503": {"Retry-After": {"description": "In seconds.", "required": False}},
}


def error_responses(*statuses: int) -> dict[int, ResponseSpec]:
    """For the OpenAPI document, which would show Litestar's own error bodies otherwise.

    500 is always among them: any request may meet a bug.
    """
    return {
        status: ResponseSpec(
            shared.ErrorResponse, description=_ERRORS[status], generate_examples=False
        )
        for status in (*statuses, 500)
    }


def openapi_config(*, with_api_key: bool) -> OpenAPIConfig:
    """The document at /schema and /schema/openapi.json."""
    key = SecurityScheme(type="http", scheme="bearer", description="The server's API key.")
    schemes: dict[str, SecurityScheme | Reference] = dict.fromkeys(API_KEY, key)
    return OpenAPIConfig(
        title="Verse",
        version=version("verse-workshop"),
        use_handler_docstrings=True,
        components=Components(security_schemes=schemes) if with_api_key else Components(),
        render_plugins=[_Truthful()],
    )


class _Truthful(JsonRenderPlugin):
    _rendered: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Called by Litestar with the document as it sees it, which never changes."""
        if self._rendered is None:
            self._rendered = self._render(request, openapi_schema)
        return self._rendered

    def _render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        paths = {
            path: {method: _operation(method, operation) for method, operation in item.items()}
            for path, item in openapi_schema["paths"].items()
        }
        components = openapi_schema["components"] | {"schemas": record_schemas()}
        document = {**openapi_schema, "paths": paths, "components": components}
        return self.render_json(request, document)  # pyright: ignore[reportUnknownMemberType]


def _operation(method: str, operation: dict[str, Any]) -> dict[str, Any]:
    responses = {
        status: {**response, "headers": _headers(status)}
        for status, response in operation["responses"].items()
    }
    if "400" in responses:
        # Litestar adds one of its own wherever there is a parameter.
        responses["400"] |= {"description": _ERRORS[400], "content": _ENVELOPE}
    if method == "head":
        for response in responses.values():
            response.pop("content", None)
    return {**operation, "responses": responses}


def _headers(status: str) -> dict[str, Any]:
    headers = {**_REQUEST_ID, **_HEADERS.get(status, {})}
    return {name: {**header, "schema": {"type": "string"}} for name, header in headers.items()}


@cache
def record_schemas() -> dict[str, Any]:
    """All records of the wire by their names; the first call takes some 40 ms of Python."""
    _, schemas = msgspec.json.schema_components(
        _STRUCTS, ref_template="#/components/schemas/{name}"
    )
    for name, field_rules in _RULES.items():
        for rule in field_rules:
            _apply(rule, schemas[name]["properties"][rule.name])
    for name, needs in _NEEDS.items():
        schemas[name]["dependentSchemas"] = {
            field: {"if": {"properties": {field: value}}, "then": _is_true(other)}
            for field, value, other in needs
        }
    for schema in schemas.values():
        if "additionalProperties" not in schema:
            _answer(schema)
        for field in schema.get("properties", {}).values():
            # Null is what leaving a field out means; generators take a default for a promise.
            field.pop("default", None)
            _open_objects(field)
    return schemas


def _open_objects(schema: dict[str, Any]) -> None:
    """Say of an object that may hold anything that it may; openapi-typescript takes it for empty.

    Args:
        schema: Of a field; what it is one of, or a list of, is looked at too.
    """
    for inner in (schema, *schema.get("anyOf", ())):
        if inner.get("type") == "object" and "maxProperties" not in inner:
            inner.setdefault("additionalProperties", True)
        if isinstance(items := inner.get("items"), dict):
            _open_objects(cast(dict[str, Any], items))


def _apply(rule: rules.FieldRule, schema: dict[str, Any]) -> None:
    """Describe a field as its rule has it. An enum of anything but strings breaks generators."""
    if rule.neutral is None:
        schema["description"] = f"Changes nothing: {rule.reason}."
        return
    schema.pop("enum", None)
    schema["description"] = f"Only its default is accepted: {rule.reason}."
    schema["anyOf"] = [*map(_exactly, rule.neutral), {"type": "null"}]


def _exactly(value: object) -> dict[str, Any]:
    match value:
        case list():
            entries = [_exactly(entry) for entry in cast(list[object], value)]
            items = entries[0] if entries else {}
            return {
                "type": "array",
                "items": items,
                "minItems": len(entries),
                "maxItems": len(entries),
            }
        case dict():
            return {"type": "object", "maxProperties": 0}
        case _:
            return {"const": value}


def _is_true(field: str) -> dict[str, Any]:
    return {"properties": {field: {"const": True}}, "required": [field]}


def _answer(schema: dict[str, Any]) -> None:
    """What has a default is still sent; only what may be unset has none and is not required."""
    schema["required"] = [
        name
        for name, field in schema["properties"].items()
        if "default" in field or name in schema["required"]
    ]


@dataclass
class PoemOperation(Operation):
    """An operation that takes the admission headers and answers in one body or in events."""

    event: ClassVar[str]
    """Name of the schema that an event's data follows."""

    def __post_init__(self) -> None:
        """Add them to what Litestar has found out."""
        self.parameters = [*(self.parameters or ()), *_admission_headers()]
        answer = (self.responses or {})["200"]
        assert isinstance(answer, OpenAPIResponse)
        assert answer.content is not None
        answer.content["text/event-stream"] = OpenAPIMediaType(schema=_event(self.event))


@dataclass
class ChatOperation(PoemOperation):
    """Streams `ChatCompletionChunk`."""

    event = "ChatCompletionChunk"


@dataclass
class CompletionOperation(PoemOperation):
    """Streams pieces of a `Completion`."""

    event = "Completion"


@dataclass
class ColumnsOperation(PoemOperation):
    """Streams `ColumnEvent`, and never answers in one body."""

    event = "ColumnEvent"

    def __post_init__(self) -> None:
        """Leave the events alone."""
        super().__post_init__()
        answer = (self.responses or {})["200"]
        assert isinstance(answer, OpenAPIResponse)
        assert answer.content is not None
        answer.content = {"text/event-stream": answer.content["text/event-stream"]}


@dataclass
class ResponseOperation(PoemOperation):
    """Streams `ResponseStreamEvent`s, each by its name."""

    event = "Response"

    def __post_init__(self) -> None:
        """Tell the events by name."""
        super().__post_init__()
        answer = (self.responses or {})["200"]
        assert isinstance(answer, OpenAPIResponse)
        assert answer.content is not None
        answer.content["text/event-stream"] = OpenAPIMediaType(schema=_named_event())


def _named_event() -> Schema:
    kinds = get_args(response_events.ResponseStreamEvent)
    records = [Reference(f"#/components/schemas/{kind.__name__}") for kind in kinds]
    record = Schema(content_media_type="application/json", content_schema=Schema(any_of=records))
    return Schema(
        type=OpenAPIType.OBJECT,
        description="One event, if `stream` is true; `event` is the `type` that `data` has.",
        properties={
            "event": Schema(type=OpenAPIType.STRING),
            "data": Schema(type=OpenAPIType.STRING, all_of=[record]),
        },
        required=["event", "data"],
    )


def _event(name: str) -> Schema:
    """One event of a stream: before OpenAPI 3.2 the schema of a stream is that of its events."""
    records = [Reference(f"#/components/schemas/{kind}") for kind in (name, "ErrorResponse")]
    record = Schema(content_media_type="application/json", content_schema=Schema(any_of=records))
    data = Schema(type=OpenAPIType.STRING, any_of=[Schema(const="[DONE]"), record])
    return Schema(
        type=OpenAPIType.OBJECT,
        description="One event, if `stream` is true. The last is `[DONE]`, or an error.",
        properties={"data": data},
        required=["data"],
    )


def _admission_headers() -> Sequence[Parameter]:
    return (
        Parameter(
            name=PRIORITY_HEADER,
            param_in="header",
            description="`batch` runs after everything else, as bulk work should.",
            schema=Schema(type=OpenAPIType.STRING, enum=PRIORITIES),
        ),
        Parameter(
            name=DEADLINE_HEADER,
            param_in="header",
            description="Give up after this many seconds.",
            schema=Schema(type=OpenAPIType.NUMBER, exclusive_minimum=0),
        ),
    )
