"""Strict decoding of bodies: what is not exactly right is refused, with the field's name."""

import re
from collections.abc import Mapping
from typing import TypeVar, get_args

import msgspec

from verse_server.api.errors import RequestError
from verse_server.protocol.chat import (
    NEUTRAL_IN_MESSAGE,
    NEUTRAL_IN_REQUEST,
    ChatCompletionRequest,
    Role,
)
from verse_server.protocol.completions import NEUTRAL_IN_COMPLETION, CompletionRequest
from verse_server.protocol.sampling import NEUTRAL_IN_STREAM_OPTIONS, SamplingRequest

T = TypeVar("T")

MAX_PARAM_CHARS = 100
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
        raise RequestError("The body is not UTF-8; encode it so.", code="invalid_json") from None
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
    return name if len(name) <= MAX_PARAM_CHARS else f"{name[:MAX_PARAM_CHARS]}…"


def _plain(problem: str) -> str:
    """Msgspec's words without its type syntax: `Expected `float | null`, got `str`` for one."""
    words = problem.replace("`", "").replace(" | null", "").replace(" | ", " or ")
    return words[:1].lower() + words[1:]
