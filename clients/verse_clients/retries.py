"""Asking again: one policy for all that ask many things, with one pause for all requests.

Pure but for the clock and the sleep that are passed in. The SDK's own retries are off: they would
multiply these, and they call nobody back, so that --max-calls and --max-cost would not count them.
"""

from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

from verse_clients.errors import (
    BrokenServerError,
    NoCompletionError,
    RateLimitedError,
    ServerDownError,
    ServerError,
    ServerTimeoutError,
)

T = TypeVar("T")

MAX_TRIES = 3
"""Of one request that the server answers, but not with a poem."""
_MAX_PAUSE_SECONDS = 15.0
_BETWEEN_TRIES_SECONDS = 1.0
_WORTH_REPORTING_SECONDS = 5.0
_GOING_DOWN = (502, 503, 504)

Step = Literal["pause", "again", "give up"]


def next_step(error: ServerError, tries: int, max_tries: int = MAX_TRIES) -> Step:
    """What to do after an error: let all requests pause, repeat this one, or give it up."""
    match error:
        case ServerDownError() | RateLimitedError():
            return "pause"
        case BrokenServerError() if error.status in _GOING_DOWN or error.retry_after_seconds:
            return "pause"
        case BrokenServerError() | ServerTimeoutError() | NoCompletionError() if tries < max_tries:
            return "again"
        case _:
            return "give up"


def pause_seconds(error: ServerError, pauses: int) -> float:
    """What the server asks for; else 1, 2, 4 and at last 15 seconds."""
    if error.retry_after_seconds is not None:
        return error.retry_after_seconds
    return min(2.0 ** min(pauses, 10), _MAX_PAUSE_SECONDS)


class RetryPolicy:
    """Asks until there is an answer, or waiting makes no sense."""

    def __init__(
        self,
        wait_seconds: float,
        *,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        report: Callable[[str], object],
        max_tries: int = MAX_TRIES,
    ) -> None:
        """Be ready to wait.

        Args:
            wait_seconds: The longest time without any answer.
            now: A clock, in seconds.
            sleep: Lets seconds pass.
            report: Takes a line for the person who waits.
            max_tries: Of one request that the server answers, but not with what was asked for.
        """
        self._max_tries = max_tries
        self._wait = wait_seconds
        self._now = now
        self._sleep = sleep
        self._report = report
        self._resume = now()
        self._troubled_since: float | None = None
        self._pauses = 0
        self._is_reported = False

    async def ask(self, request: Callable[[], Awaitable[T]]) -> T:
        """Make a request until it is answered.

        Raises:
            ServerError: waiting does not help, or took too long.
        """
        tries = 0
        while True:
            await self.turn()
            begun = self._now()
            try:
                answer = await request()
            except ServerError as error:
                tries += 1
                decided = next_step(error, tries, self._max_tries)
                if decided == "give up":
                    raise
                if decided == "again":
                    await self._sleep(_BETWEEN_TRIES_SECONDS)
                else:
                    tries -= 1
                    self.pause(error, begun)
            else:
                self.answered()
                return answer

    @property
    def rest_seconds(self) -> float:
        """How long the pause still is; nothing or less if none is on."""
        return self._resume - self._now()

    async def turn(self) -> None:
        """Wait until no pause is on; another request may lengthen it meanwhile."""
        while (rest := self.rest_seconds) > 0:
            await self._sleep(rest)

    def pause(self, error: ServerError, begun: float) -> None:
        """Begin a pause, or lengthen it, after what a request ended in that was sent at `begun`.

        Raises:
            ServerError: it has lasted too long, or would.
        """
        now, asked = self._now(), error.retry_after_seconds
        if begun < self._resume and asked is None:
            return  # sent before the pause began: the same trouble, seen once more
        since = now if self._troubled_since is None else self._troubled_since
        left = since + self._wait - now
        seconds = pause_seconds(error, self._pauses)
        if asked is not None and asked > left:
            raise _too_long(error, asked, self._wait)
        if left <= 0:
            raise error
        self._troubled_since = since
        self._pauses += 1
        self._report_pause(error, seconds)
        self._resume = max(self._resume, now + min(seconds, left))

    def _report_pause(self, error: ServerError, seconds: float) -> None:
        """One line for an outage; one for each long pause that is asked for."""
        if error.retry_after_seconds is None:
            if not self._is_reported:
                self._report(f"{error} Waiting up to {self._wait:.0f} s for it; Ctrl-C stops.")
        elif self._now() + seconds > self._resume + _WORTH_REPORTING_SECONDS:
            self._report(f"{error} Waiting {seconds:.0f} s, as it asks.")
        else:
            return
        self._is_reported = True

    def answered(self) -> None:
        """The server is well."""
        if self._is_reported and self._now() >= self._resume:
            self._report("The server answers again.")
            self._is_reported = False
        self._troubled_since = None
        self._pauses = 0


def _too_long(error: ServerError, asked: float, wait: float) -> ServerError:
    """The same error, which also says that the server asks for a longer wait than is allowed."""
    return type(error)(
        f"{error} It asks to wait {asked:.0f} s; --wait allows {wait:.0f} s.",
        status=error.status,
        code=error.code,
        retry_after_seconds=asked,
    )
