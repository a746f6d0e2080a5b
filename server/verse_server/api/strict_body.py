"""How raw bodies reach our own decoders.

Litestar decodes leniently ("0.7" passes for a number). So the body reaches msgspec as raw bytes, by
way of a DTO, which keeps the handler's type and the OpenAPI document as they are.
"""

from collections.abc import Callable, Generator
from typing import Any, ClassVar, TypeVar

import msgspec
from litestar.dto import AbstractDTO, DTOFieldDefinition
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from verse_server.api.decoding import (
    MAX_PARAM_CHARS,
    decode_chat_request,
    decode_completion_request,
    decode_json,
)
from verse_server.api.errors import RequestError
from verse_server.protocol.adapters import (
    LoadLoRAAdapterRequest,
    ProbeRequest,
    UnloadLoRAAdapterRequest,
)
from verse_server.protocol.chat import ChatCompletionRequest
from verse_server.protocol.completions import CompletionRequest

T = TypeVar("T", bound=msgspec.Struct)

_JSON = "application/json"
_PLAIN = "identity"


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
            f"The content type {given[:MAX_PARAM_CHARS]!r} is not supported; "
            f"send 'Content-Type: {_JSON}'.",
            code="unsupported_content_type",
        )


def _check_content_encoding(given: str) -> None:
    if given.strip().lower() != _PLAIN:
        raise RequestError(
            f"The content encoding {given[:MAX_PARAM_CHARS]!r} is not supported; "
            "send the body as it is.",
            code="unsupported_content_encoding",
        )
