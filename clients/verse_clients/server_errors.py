"""What can come back from a server instead of an answer, without any SDK's types.

UserError
└── ServerError             anything else that went wrong
    ├── ServerDownError       nothing answers at the address
    ├── ServerTimeoutError    it answers too slowly
    ├── UnauthorisedError     401, 403: the key is missing, wrong, or not allowed to
    ├── UnknownModelError     404: no model of this name
    ├── RateLimitedError      429: too many requests; `retry_after_seconds` may say how long
    ├── QuotaError            429: the account has nothing left, and waiting does not help
    ├── BadRequestError       400, 409, 413, 422: it will not answer this, however often it is asked
    ├── BrokenServerError     5xx: its own fault; `retry_after_seconds` may say how long
    └── NoCompletionError     what it sent is no chat completion

Every message is one sentence that names the server.
"""

from verse.errors import UserError


class ServerError(UserError):
    """The server could not be reached or refused; one sentence says which."""

    def __init__(
        self,
        sentence: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(sentence)
        self.status = status
        """Of the HTTP answer; None if there was none."""
        self.code = code
        """The server's own word for it, such as `model_not_found`."""
        self.retry_after_seconds = retry_after_seconds
        """How long the server asks to be left alone; None if it does not say."""


class ServerDownError(ServerError):
    """Nothing answers at the address."""


class ServerTimeoutError(ServerError):
    """No whole answer came in time."""


class UnauthorisedError(ServerError):
    """The key is missing, wrong, or not allowed to do this."""


class UnknownModelError(ServerError):
    """The server has no model of this name."""


class RateLimitedError(ServerError):
    """Too many requests; waiting helps."""


class QuotaError(ServerError):
    """The account has nothing left; waiting does not help."""


class BadRequestError(ServerError):
    """The request itself is refused; asking again does not help."""


class BrokenServerError(ServerError):
    """The server failed by its own fault, or is just going down."""


class NoCompletionError(ServerError):
    """What came is no chat completion."""
