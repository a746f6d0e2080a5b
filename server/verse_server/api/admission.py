"""What a request's headers say about its turn: who asks, how urgent it is, how long it may take.

    x-verse-priority: batch             runs after everything else, as bulk work should
    x-verse-deadline-seconds: 30        the answer is of no use later

Clients share the batch fairly. Who a client is follows from the `user` field of the request, or
else from its address and program.
"""

import math
from typing import Any

import msgspec
from litestar import Request

from verse_server.api.errors import RequestError

PRIORITY_HEADER = "x-verse-priority"
DEADLINE_HEADER = "x-verse-deadline-seconds"
PRIORITIES = ("normal", "batch")


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """When a request gets its turn."""

    client: str = ""
    is_batch: bool = False
    max_seconds: float | None = None


def read_admission(request: Request[Any, Any, Any], user: str | None) -> Admission:
    """Read the headers.

    Args:
        request: With the headers and the peer's address.
        user: The field of the body, if it has one.

    Raises:
        RequestError: a header means nothing.
    """
    headers = request.headers
    peer = request.client.host if request.client else ""
    return Admission(
        client=user or f"{peer} {headers.get('user-agent', '')}",
        is_batch=_priority(headers.get(PRIORITY_HEADER, "normal")) == "batch",
        max_seconds=_seconds(headers.get(DEADLINE_HEADER)),
    )


def _priority(value: str) -> str:
    if value.strip().lower() not in PRIORITIES:
        raise RequestError(
            f"The header {PRIORITY_HEADER} is 'normal' or 'batch'.", param=PRIORITY_HEADER
        )
    return value.strip().lower()


def _seconds(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise RequestError(
            f"The header {DEADLINE_HEADER} is a number of seconds above 0.", param=DEADLINE_HEADER
        )
    return seconds
