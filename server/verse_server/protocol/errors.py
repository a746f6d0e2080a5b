"""The envelope that every error comes in. `/health` alone answers 503 with its own record."""

import msgspec


class ErrorObject(msgspec.Struct, frozen=True):
    """What went wrong, for a person (`message`) and for a program (`code`, `param`)."""

    message: str
    type: str
    """`rate_limit_error` with status 429, `server_error` from 500 on, or else
    `invalid_request_error`."""
    param: str | None = None
    """The field at fault, as a path (`messages[0].role`), or the header."""
    code: str | None = None


class ErrorResponse(msgspec.Struct, frozen=True):
    """OpenAI's error body."""

    error: ErrorObject
