"""The envelope that every error comes in, on every path and with every status."""

import msgspec


class ErrorObject(msgspec.Struct, frozen=True):
    """What went wrong, for a person (`message`) and for a program (`code`, `param`)."""

    message: str
    type: str
    """`invalid_request_error` for what the caller can change, `server_error` for the rest."""
    param: str | None = None
    """The field at fault, as a path: `messages[0].role`."""
    code: str | None = None


class ErrorResponse(msgspec.Struct, frozen=True):
    """OpenAI's error body."""

    error: ErrorObject
