"""`/health` on the wire."""

from typing import Literal

import msgspec


class HealthResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of the engine; the HTTP status says the same as `status`."""

    status: Literal["ok", "draining", "stalled", "dead"]
    running: int
    """Poems being written."""
    waiting: int
    """Requests not yet begun."""
    resident_adapters: int
