"""What the controllers share: the engine Litestar hands them, and the errors they document."""

from litestar.di import NamedDependency
from litestar.enums import HttpMethod
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import SkipValidation

from verse_server.engine.interface import Engine
from verse_server.protocol.errors import ErrorResponse

EngineDependency = NamedDependency[SkipValidation[Engine]]
"""The engine. It is a Protocol, so there is nothing for Litestar to validate."""

READ = (HttpMethod.GET, HttpMethod.HEAD)
"""HEAD answers as GET does; the server sends no body for it."""

_ERRORS = {
    400: "The body is not what it should be; `param` names the field or header, if it is one.",
    401: "The API key is missing or wrong.",
    404: "No model has this name.",
    409: "The adapter is there, but cannot be served.",
    413: "The body is too large.",
    429: "Too many requests wait already.",
    500: "The server failed; its log has the cause.",
    503: "The server is shutting down, or the adapter's files are being replaced.",
    504: "The answer was not finished in the time it was given.",
}


def error_responses(*statuses: int) -> dict[int, ResponseSpec]:
    """For the OpenAPI document, which would show Litestar's own error bodies otherwise.

    500 is always among them: any request may meet a bug.
    """
    return {
        status: ResponseSpec(ErrorResponse, description=_ERRORS[status], generate_examples=False)
        for status in (*statuses, 500)
    }
