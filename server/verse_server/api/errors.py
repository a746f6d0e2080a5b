"""The one place where an error becomes an answer: any exception in, OpenAI's envelope out.

RequestError                     its own status     refused before the engine saw it
EngineError
├── ModelNotFoundError           404                model_not_found
├── AdapterIncompatibleError     409                adapter_incompatible
├── AdapterChangedError          503, Retry-After   adapter_changing
├── InvalidRequestError          400                invalid_value
│   └── PromptTooLongError       400                context_length_exceeded
├── QueueFullError               429, Retry-After   queue_full
├── DeadlineExceededError        504                deadline_exceeded
├── SlowClientError              408                client_too_slow
├── EngineClosedError            503, Retry-After   engine_closed
└── GenerationFailedError        500                generation_failed
StateError
├── RecordNotFoundError          404                not_found
├── RecordInUseError             409                invalid_state
└── StorageFullError             507                storage_full
HTTPException (Litestar)         its own status     unknown path, wrong method, body too large
ClientDisconnectedError          499                nobody will read it; for the log
anything else                    500                logged with its traceback, never shown

Every message is one sentence for the person who sent the request.
"""

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.enums import MediaType
from litestar.exceptions import (
    HTTPException,
    InternalServerException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.response.base import ASGIResponse

from verse_server.api.request_log import current_request
from verse_server.engine.errors import (
    AdapterChangedError,
    AdapterIncompatibleError,
    DeadlineExceededError,
    EngineClosedError,
    EngineError,
    InvalidRequestError,
    ModelNotFoundError,
    PromptTooLongError,
    QueueFullError,
    SlowClientError,
)
from verse_server.protocol.shared import ErrorObject, ErrorResponse
from verse_server.state.errors import RecordNotFoundError, StateError, StorageFullError

_RETRY_AFTER_SECONDS = 5
"""A restarted server has usually loaded its base by then."""

_MAX_MESSAGE_CHARS = 1000

_log = logging.getLogger(__name__)


class ClientDisconnectedError(Exception):
    """The client closed its connection; there is nobody to answer."""


class RequestError(Exception):
    """A request refused before it reached the engine."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str = "invalid_value",
        status: int = 400,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status
        self.headers = dict(headers or {})


class Failure(msgspec.Struct, frozen=True):
    """An error, translated: what to answer."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] = {}

    @property
    def body(self) -> ErrorResponse:
        """OpenAI's envelope."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return ErrorResponse(ErrorObject(self.message, kind, self.param, self.code))


def translate(error: Exception) -> Failure:
    """Say what to answer for any exception; what is nobody's mistake but ours is logged."""
    failure = _translate(error)
    current_request().error = failure.code
    if len(failure.message) <= _MAX_MESSAGE_CHARS:
        return failure
    # It quotes what was sent: a name, a path or a number of any length.
    shortened = f"{failure.message[:_MAX_MESSAGE_CHARS]}…"
    return msgspec.structs.replace(failure, message=shortened)


def handle_error(_request: Request[Any, Any, Any], error: Exception) -> Response[ErrorResponse]:
    """Litestar's exception handler for everything."""
    return error_response(error)


def error_response(error: Exception) -> Response[ErrorResponse]:
    """The answer to an exception."""
    failure = translate(error)
    return Response(
        failure.body,
        status_code=failure.status,
        headers=failure.headers,
        media_type=MediaType.JSON,
    )


def bare_error_response(error: Exception) -> ASGIResponse:
    """The answer to an exception outside of Litestar's routes."""
    failure = translate(error)
    body = msgspec.json.encode(failure.body)
    return ASGIResponse(
        body=body,
        status_code=failure.status,
        headers=failure.headers,
        media_type=MediaType.JSON,
    )


def _translate(error: Exception) -> Failure:
    match error:
        case RequestError():
            return Failure(error.status, str(error), error.code, error.param, error.headers)
        # Litestar's own is for a client that leaves before all of its body is there.
        case (
            ClientDisconnectedError()
            | InternalServerException(detail="client disconnected prematurely")
        ):
            return Failure(499, "The client went away.", "client_disconnected")
        case EngineError():
            return _of_engine(error)
        case StateError():
            return _of_state(error)
        case HTTPException() if error.status_code < 500:
            return _of_litestar(error)
        case _:
            return _unexpected(error)


def _of_engine(error: EngineError) -> Failure:
    message = str(error)
    match error:
        case ModelNotFoundError():
            return Failure(404, message, "model_not_found")
        case AdapterIncompatibleError():
            # The SDK takes every 409 for a lock and tries again; this one will not go away.
            return Failure(
                409, message, "adapter_incompatible", headers={"x-should-retry": "false"}
            )
        case AdapterChangedError():
            return Failure(503, message, "adapter_changing", headers={"Retry-After": "1"})
        case PromptTooLongError():
            return Failure(400, message, "context_length_exceeded", error.param)
        case InvalidRequestError():
            return Failure(400, message, "invalid_value", error.param)
        case QueueFullError():
            headers = {"Retry-After": str(error.retry_after_seconds)}
            return Failure(429, message, "queue_full", headers=headers)
        case DeadlineExceededError():
            # Tried again it would take as long.
            headers = {"x-should-retry": "false"}
            return Failure(504, message, "deadline_exceeded", headers=headers)
        case SlowClientError():
            headers = {"x-should-retry": "false"}
            return Failure(408, message, "client_too_slow", headers=headers)
        case EngineClosedError():
            headers = {"Retry-After": str(_RETRY_AFTER_SECONDS)}
            return Failure(503, message, "engine_closed", headers=headers)
        case _:
            return Failure(500, message, "generation_failed")


def _of_state(error: StateError) -> Failure:
    # None of them goes away by asking again, which the SDK would do after a 409 and a 507.
    headers = {"x-should-retry": "false"}
    match error:
        case RecordNotFoundError():
            return Failure(404, str(error), "not_found", error.param)
        case StorageFullError():
            return Failure(507, str(error), "storage_full", headers=headers)
        case _:
            return Failure(409, str(error), "invalid_state", headers=headers)


def _of_litestar(error: HTTPException) -> Failure:
    request = current_request()
    match error:
        case NotFoundException():
            return Failure(404, f"Invalid URL ({request.method} {request.path}).", "unknown_url")
        case MethodNotAllowedException():
            allowed = ", ".join(sorted((error.headers or {}).get("allow", "").split(", ")))
            message = f"{request.method} is not allowed here; use {allowed}."
            return Failure(405, message, "method_not_allowed", headers={"Allow": allowed})
        case RequestEntityTooLarge():
            return Failure(413, "The request body is too large; send less text.", "body_too_large")
        case ValidationException():
            # Only a missing body gets here: everything inside one is decoded in decoding.py.
            return Failure(400, "The request has no body; send a JSON object.", "invalid_json")
        case _:
            return Failure(error.status_code, f"{error.detail}.", "invalid_request")


def _unexpected(error: Exception) -> Failure:
    request_id = current_request().id
    if isinstance(error, HTTPException) and error.__cause__ is None:
        # Litestar's own: a client that went away while it sent the body, say.
        _log.error("%s failed: %s", request_id, error.detail)
    else:
        _log.error("%s failed", request_id, exc_info=error)
    message = f"The server failed to answer this request; look for {request_id} in its log."
    return Failure(500, message, "internal_error")
