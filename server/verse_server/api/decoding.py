"""Strict decoding of bodies: what is not exactly right is refused, with the field's name.

Litestar decodes leniently ("0.7" passes for a number). So the body reaches msgspec as raw bytes, by
way of a DTO, which keeps the handler's type and the OpenAPI document as they are.
"""

import re
from collections.abc import Callable, Generator, Mapping
from typing import Any, ClassVar, TypeVar, get_args

import msgspec
from litestar.dto import AbstractDTO, DTOFieldDefinition
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from verse_server.api.errors import RequestError
from verse_server.protocol.chat import (
    NEUTRAL_IN_MESSAGE,
    NEUTRAL_IN_REQUEST,
    ChatCompletionRequest,
    Role,
)
from verse_server.protocol.completions import NEUTRAL_IN_COMPLETION, CompletionRequest
from verse_server.protocol.models import (
    LoadLoRAAdapterRequest,
    ProbeRequest,
    UnloadLoRAAdapterRequest,
)
from verse_server.protocol.shared import NEUTRAL_IN_STREAM_OPTIONS, SamplingRequest

T = TypeVar("T", bound=msgspec.Struct)

_MAX_PARAM_CHARS = 100
_JSON = "application/json"
_PLAIN = "identity"
_PLACE = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_CHOICES = {"role": get_args(Role), "type": ("text",)}

_chat_decoder = msgspec.json.Decoder(ChatCompletionRequest)
_completion_decoder = msgspec.json.Decoder(CompletionRequest)


def decode_chat_request(body: bytes) -> ChatCompletionRequest:
    """Read a chat request from raw bytes.

    Raises:
        RequestError: 400 with `param`: no JSON, a wrong type, out of bounds, unknown, unsupported.
    """
    request = decode_json(body, _chat_decoder)
    _refuse_unsupported(request, NEUTRAL_IN_REQUEST)
    for index, message in enumerate(request.messages):
        _refuse_unsupported(message, NEUTRAL_IN_MESSAGE, f"messages[{index}].")
    _check_stream_options(request)
    return request


def decode_completion_request(body: bytes) -> CompletionRequest:
    """Read a request to continue texts; raises as `decode_chat_request`."""
    request = decode_json(body, _completion_decoder)
    _refuse_unsupported(request, NEUTRAL_IN_COMPLETION)
    _check_stream_options(request)
    return request


def _check_stream_options(request: SamplingRequest) -> None:
    if request.stream_options is not None:
        _refuse_unsupported(request.stream_options, NEUTRAL_IN_STREAM_OPTIONS, "stream_options.")
        if not request.stream:
            raise RequestError(
                "'stream_options' is for streams; set 'stream' to true or leave it out.",
                param="stream_options",
            )


def decode_json(body: bytes, decoder: "msgspec.json.Decoder[T]") -> T:
    """Decode strictly, turning every complaint of msgspec into a `RequestError`."""
    if not body.strip():
        raise RequestError("The request has no body; send a JSON object.", code="invalid_json")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explained(str(error)) from None
    except msgspec.DecodeError as error:
        raise RequestError(f"The body is not JSON: {error}.", code="invalid_json") from None
    except UnicodeDecodeError:
        raise RequestError(
            "The body is not UTF-8; encode it as UTF-8.", code="invalid_json"
        ) from None
    except RecursionError:
        raise RequestError("The body is nested too deeply.", code="invalid_json") from None


def _refuse_unsupported(
    record: msgspec.Struct, neutral: Mapping[str, tuple[object, ...]], place: str = ""
) -> None:
    for name, allowed in neutral.items():
        value: object = getattr(record, name)
        # `True == 1`, so types are compared too.
        if value is not None and not any(type(value) is type(a) and value == a for a in allowed):
            raise RequestError(
                f"'{place}{name}' is not supported here; leave it out.",
                param=place + name,
                code="unsupported_parameter",
            )


def _explained(complaint: str) -> RequestError:
    """Turn msgspec's `Expected ... - at `$.messages[0].role`` into OpenAI's message and `param`."""
    place = _PLACE.search(complaint)
    parent = place[1].replace("[...]", "") if place else ""
    problem = complaint[: place.start()] if place else complaint
    if (unknown := _UNKNOWN.fullmatch(problem)) is not None:
        param = _shortened(_joined(parent, unknown[1]))
        return RequestError(
            f"Unknown parameter '{param}'; leave it out.", param=param, code="unknown_parameter"
        )
    if (missing := _MISSING.fullmatch(problem)) is not None:
        param = _joined(parent, missing[1])
        return RequestError(
            f"Missing parameter '{param}'.", param=param, code="missing_required_parameter"
        )
    field = f"'{parent}'" if parent else "the body"
    choices = (
        _CHOICES.get(parent.rpartition(".")[2]) if problem.startswith("Invalid enum") else None
    )
    hint = f"; use {', '.join(choices)}" if choices else ""
    return RequestError(
        f"Invalid value for {field}: {_plain(problem)}{hint}.", param=parent or None
    )


def _joined(parent: str, field: str) -> str:
    return f"{parent}.{field}" if parent else field


def _shortened(name: str) -> str:
    return name if len(name) <= _MAX_PARAM_CHARS else f"{name[:_MAX_PARAM_CHARS]}…"


def _plain(problem: str) -> str:
    """Msgspec's words without its type syntax: `Expected `float | null`, got `str`` for one."""
    words = problem.replace("`", "").replace(" | null", "").replace(" | ", " or ")
    return words[:1].lower() + words[1:]


class StrictBody(AbstractDTO[T]):
    """Hands a handler's `data` to a function; Litestar's own DTO machinery stays out."""

    decode: ClassVar[Callable[[bytes], Any]]

    def decode_bytes(self, value: bytes) -> Any:
        """Decode the body, if the request calls it JSON."""
        headers = self.asgi_connection.headers  # pyright: ignore[reportUnknownMemberType]
        _check_content_type(headers.get("content-type", _JSON))
        _check_content_encoding(headers.get("content-encoding", _PLAIN))
        return type(self).decode(value)

    @classmethod
    def create_for_field_definition(cls, *_args: Any, **_kwargs: Any) -> None:
        """Litestar would build a transfer model here; the Struct is its own."""

    @classmethod
    def create_openapi_schema(
        cls,
        field_definition: FieldDefinition,
        handler_id: str,  # noqa: ARG003  (Litestar names its arguments)
        schema_creator: Any,
    ) -> Reference | Schema:
        """The schema of the Struct itself."""
        return schema_creator.for_field_definition(field_definition)

    @classmethod
    def generate_field_definitions(
        cls, *_args: Any, **_kwargs: Any
    ) -> Generator[DTOFieldDefinition, None, None]:
        """No transfer model, no fields."""
        yield from ()

    @classmethod
    def detect_nested_field(cls, *_args: Any, **_kwargs: Any) -> bool:
        """No transfer model, nothing nested."""
        return False


def _decoding(kind: type[T]) -> Callable[[bytes], T]:
    decoder = msgspec.json.Decoder(kind)
    return lambda body: decode_json(body, decoder)


class StrictChatBody(StrictBody[ChatCompletionRequest]):
    """A chat request."""

    decode = staticmethod(decode_chat_request)


class StrictCompletionBody(StrictBody[CompletionRequest]):
    """A request to continue texts."""

    decode = staticmethod(decode_completion_request)


class StrictLoadBody(StrictBody[LoadLoRAAdapterRequest]):
    """A request to load an adapter."""

    decode = staticmethod(_decoding(LoadLoRAAdapterRequest))


class StrictProbeBody(StrictBody[ProbeRequest]):
    """A request to measure one."""

    decode = staticmethod(_decoding(ProbeRequest))


class StrictUnloadBody(StrictBody[UnloadLoRAAdapterRequest]):
    """A request to unload one."""

    decode = staticmethod(_decoding(UnloadLoRAAdapterRequest))


def _check_content_type(given: str) -> None:
    if given.partition(";")[0].strip().lower() != _JSON:
        raise RequestError(
            f"The content type {given[:_MAX_PARAM_CHARS]!r} is not supported; "
            f"send 'Content-Type: {_JSON}'.",
            code="unsupported_content_type",
        )


def _check_content_encoding(given: str) -> None:
    if given.strip().lower() != _PLAIN:
        raise RequestError(
            f"The content encoding {given[:_MAX_PARAM_CHARS]!r} is not supported; "
            "send the body as it is.",
            code="unsupported_content_encoding",
        )
