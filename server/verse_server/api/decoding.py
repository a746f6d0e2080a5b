"""Strict decoding of bodies: what is not exactly right is refused, with the field's name.

Litestar decodes leniently ("0.7" passes for a number). So the body reaches msgspec as raw bytes, by
way of a DTO, which keeps the handler's type and the OpenAPI document as they are.
"""

from collections.abc import Callable, Generator, Iterable
from typing import Any, ClassVar, TypeVar

import msgspec
from litestar.connection import ASGIConnection
from litestar.dto import AbstractDTO, DTOFieldDefinition
from litestar.handlers.base import BaseRouteHandler
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from verse_server.api.errors import RequestError
from verse_server.api.response_input import check_items
from verse_server.api.tools import check_turn
from verse_server.api.validation import (
    explained,
    refuse_byte_order_mark,
    refuse_crowds,
    refuse_repeated_keys,
    with_whole_numbers,
)
from verse_server.protocol.batches import CreateBatchRequest
from verse_server.protocol.chat import ChatCompletionMessageParam, ChatCompletionRequest
from verse_server.protocol.completions import CompletionRequest
from verse_server.protocol.field_rules import (
    RULES_OF_BOTH,
    RULES_OF_CHAT,
    RULES_OF_COMPLETIONS,
    RULES_OF_MESSAGES,
    RULES_OF_RESPONSES,
    RULES_OF_STREAM_OPTIONS,
    RULES_OF_STRUCTURED_OUTPUTS,
    RULES_OF_TOKENIZE,
    FieldRule,
)
from verse_server.protocol.models import (
    DetokenizeRequest,
    LoadLoRAAdapterRequest,
    ProbeRequest,
    TokenizeRequest,
    UnloadLoRAAdapterRequest,
)
from verse_server.protocol.page import ColumnsRequest, DecisionRequest
from verse_server.protocol.responses import CreateResponse
from verse_server.protocol.shared import SamplingRequest

T = TypeVar("T", bound=msgspec.Struct)

_MAX_PARAM_CHARS = 100
_MAX_REPAIRS = 32
_LARGE_BIAS = 1000
_JSON = "application/json"
_PLAIN = "identity"

_chat_decoder = msgspec.json.Decoder(ChatCompletionRequest)
_columns_decoder = msgspec.json.Decoder(ColumnsRequest)
_tokenize_decoder = msgspec.json.Decoder(TokenizeRequest)
_response_decoder = msgspec.json.Decoder(CreateResponse)
_completion_decoder = msgspec.json.Decoder(CompletionRequest)


def decode_chat_request(body: bytes) -> ChatCompletionRequest:
    """Read a chat request from raw bytes.

    Raises:
        RequestError: 400 with `param`: no JSON, a wrong type, out of bounds, unknown, unsupported.
    """
    request = decode_json(body, _chat_decoder)
    _check_chat(request)
    return request


def decode_columns_request(body: bytes) -> ColumnsRequest:
    """Read several chat requests; raises as `decode_chat_request`, naming the column too."""
    request = decode_json(body, _columns_decoder)
    for number, column in enumerate(request.columns):
        try:
            _check_chat(column)
        except RequestError as error:
            error.param = f"columns[{number}].{error.param}"
            raise
    return request


def _check_chat(request: ChatCompletionRequest) -> None:
    _refuse_unsupported(request, RULES_OF_CHAT)
    _check_shared(request)
    _check_messages(request.messages)


def decode_completion_request(body: bytes) -> CompletionRequest:
    """Read a request to continue texts; raises as `decode_chat_request`."""
    request = decode_json(body, _completion_decoder)
    _refuse_unsupported(request, RULES_OF_COMPLETIONS)
    _check_shared(request)
    return request


def decode_response_request(body: bytes) -> CreateResponse:
    """Read a request for a response; raises as `decode_chat_request`."""
    request = decode_json(body, _response_decoder)
    _refuse_unsupported(request, RULES_OF_RESPONSES)
    if request.stream_options is not None:
        _refuse_unsupported(request.stream_options, RULES_OF_STREAM_OPTIONS, "stream_options.")
        _check_is_stream(request.stream)
    check_items(() if isinstance(request.input, str) else request.input or ())
    return request


def decode_tokenize_request(body: bytes) -> TokenizeRequest:
    """Read a text or a conversation to be tokenized; raises as `decode_chat_request`."""
    request = decode_json(body, _tokenize_decoder)
    _refuse_unsupported(request, RULES_OF_TOKENIZE)
    _check_messages(request.messages or ())
    return request


def _check_messages(messages: Iterable[ChatCompletionMessageParam]) -> None:
    for index, message in enumerate(messages):
        _refuse_unsupported(message, RULES_OF_MESSAGES, f"messages[{index}].")
        check_turn(message, index)


def _check_shared(request: SamplingRequest) -> None:
    _refuse_unsupported(request, RULES_OF_BOTH)
    if request.structured_outputs is not None:
        _refuse_unsupported(
            request.structured_outputs, RULES_OF_STRUCTURED_OUTPUTS, "structured_outputs."
        )
    if request.stream_options is not None:
        _refuse_unsupported(request.stream_options, RULES_OF_STREAM_OPTIONS, "stream_options.")
        _check_is_stream(request.stream)


def _check_is_stream(stream: bool | None) -> None:
    if not stream:
        raise RequestError(
            "'stream_options' is for streams; set 'stream' to true or leave it out.",
            param="stream_options",
        )


def decode_json(body: bytes, decoder: "msgspec.json.Decoder[T]") -> T:
    """Decode strictly, turning every complaint of msgspec into a `RequestError`."""
    if not body.strip():
        raise RequestError("The request has no body; send a JSON object.", code="invalid_json")
    refuse_byte_order_mark(body)
    refuse_crowds(body)
    try:
        decoded = _decoded(body, decoder)
        refuse_repeated_keys(_without_large_bias(body, decoded))
    except msgspec.DecodeError as error:
        raise RequestError(f"The body is not JSON: {error}.", code="invalid_json") from None
    except UnicodeDecodeError:
        raise RequestError(
            "The body is not UTF-8; encode it as UTF-8.", code="invalid_json"
        ) from None
    except RecursionError:
        raise RequestError("The body is nested too deeply.", code="invalid_json") from None
    return decoded


class _Biased(msgspec.Struct):
    """What says where in a body a bias is; it is not read for that."""

    logit_bias: msgspec.Raw = msgspec.Raw()


def _without_large_bias(body: bytes, decoded: msgspec.Struct) -> bytes:
    """A body for those who look for repeated keys, without a long list of keys that differ.

    Each of them has one colon, and no number has any. To make and compare 50,000 keys once more
    would keep the interpreter from running streams for longer than one of their steps takes.
    """
    bias: dict[int, float] | None = getattr(decoded, "logit_bias", None)
    if bias is None or len(bias) < _LARGE_BIAS:
        return body
    raw = bytes(msgspec.json.decode(body, type=_Biased).logit_bias)
    return body.replace(raw, b"null") if raw.count(b":") == len(bias) else body


def _decoded(body: bytes, decoder: "msgspec.json.Decoder[T]") -> T:
    """Decode; 5.0 is an integer, as JSON Schema has it, where an integer is wanted."""
    for _ in range(_MAX_REPAIRS):
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            repaired = with_whole_numbers(body, str(error))
            if repaired is None:
                raise explained(str(error), body) from None
            body = repaired
    raise RequestError("Too many integers are written as decimals.", code="invalid_type")


def _refuse_unsupported(
    record: msgspec.Struct, rules: Iterable[FieldRule], place: str = ""
) -> None:
    for rule in rules:
        if not rule.accepts(getattr(record, rule.name)):
            param = place + rule.name
            raise RequestError(
                f"Unsupported parameter: '{param}' is not supported here ({rule.reason}); "
                "leave it out.",
                param=param,
                code="unsupported_parameter",
            )


class StrictBody(AbstractDTO[T]):
    """Hands a handler's `data` to a function; Litestar's own DTO machinery stays out."""

    decode: ClassVar[Callable[[bytes], Any]]

    def decode_bytes(self, value: bytes) -> Any:
        """Decode the body, if the request calls it JSON."""
        headers = self.asgi_connection.headers  # pyright: ignore[reportUnknownMemberType]
        _check_content_type(headers.get("content-type", ""))
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


class StrictResponseBody(StrictBody[CreateResponse]):
    """A request for a response."""

    decode = staticmethod(decode_response_request)


class StrictColumnsBody(StrictBody[ColumnsRequest]):
    """Chat requests that are answered together."""

    decode = staticmethod(decode_columns_request)


class StrictDecisionBody(StrictBody[DecisionRequest]):
    """What was decided about a poem."""

    decode = staticmethod(_decoding(DecisionRequest))


class StrictBatchBody(StrictBody[CreateBatchRequest]):
    """A request to begin a batch."""

    decode = staticmethod(_decoding(CreateBatchRequest))


class StrictLoadBody(StrictBody[LoadLoRAAdapterRequest]):
    """A request to load an adapter."""

    decode = staticmethod(_decoding(LoadLoRAAdapterRequest))


class StrictProbeBody(StrictBody[ProbeRequest]):
    """A request to measure one."""

    decode = staticmethod(_decoding(ProbeRequest))


class StrictTokenizeBody(StrictBody[TokenizeRequest]):
    """A request to tokenize."""

    decode = staticmethod(decode_tokenize_request)


class StrictDetokenizeBody(StrictBody[DetokenizeRequest]):
    """A request to read tokens."""

    decode = staticmethod(_decoding(DetokenizeRequest))


class StrictUnloadBody(StrictBody[UnloadLoRAAdapterRequest]):
    """A request to unload one."""

    decode = staticmethod(_decoding(UnloadLoRAAdapterRequest))


def check_unread_body(
    connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler
) -> None:
    """A guard for what needs no body: one that comes all the same is JSON, or a page's own.

    Raises:
        RequestError: 400, there is a body that a web page can send unasked.
    """
    headers = connection.headers
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        _check_content_type(headers.get("content-type", ""))


def _check_content_type(given: str) -> None:
    if given.partition(";")[0].strip().lower() != _JSON:
        problem = f"The content type {given[:_MAX_PARAM_CHARS]!r} is not supported"
        raise RequestError(
            f"{problem if given else 'The content type is missing'}; send 'Content-Type: {_JSON}'.",
            code="unsupported_content_type",
        )


def _check_content_encoding(given: str) -> None:
    if given.strip().lower() != _PLAIN:
        raise RequestError(
            f"The content encoding {given[:_MAX_PARAM_CHARS]!r} is not supported; "
            "send the body as it is.",
            code="unsupported_content_encoding",
        )
