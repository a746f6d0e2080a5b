"""What can go wrong for whoever lets poems be written, judged or learned from.

UserError
├── InputError       a file cannot be read or holds something else, or options do not fit together
├── OutputError      a file is another run's, in use, or cannot be written
├── UnfinishedError  a run ended before its end; it says how to go on
├── SelectionError   the server has no such adapter, or none of its checkpoints is meant
└── ServerError             what came back from a server instead of an answer
    ├── ServerDownError       nothing answers at the address
    ├── ServerTimeoutError    it answers too slowly
    ├── UnauthorisedError     401, 403: the key is missing, wrong, or not allowed to
    ├── UnknownModelError     404: no model of this name
    ├── RateLimitedError      429: too many requests; `retry_after_seconds` may say how long
    ├── QuotaError            429: the account has nothing left, and waiting does not help
    ├── BadRequestError       400, 409, 413, 422: it will not answer this, however often it is asked
    ├── BrokenServerError     5xx: its own fault; `retry_after_seconds` may say how long
    └── NoCompletionError     what it sent is no chat completion

Every message is one sentence; that of a ServerError names the server. `verse.cli` prints them, with
exit code 2. What concerns one command alone is in its package.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime

from verse import UserError


class InputError(UserError):
    """A file cannot be read or holds something else, or options do not fit together."""


class OutputError(UserError):
    """A file is another run's, in use, or cannot be written."""


class UnfinishedError(UserError):
    """A run ended before its end; what it made so far is on the disk."""


class SelectionError(UserError):
    """What was asked for does not exist on this server."""


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


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """What a Retry-After says, which is a number of seconds or a date."""
    with suppress(ValueError, KeyError):
        return max(0.0, float(headers["retry-after-ms"]) / 1000)
    value = headers.get("retry-after", "")
    with suppress(ValueError):
        return max(0.0, float(value))
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return None
