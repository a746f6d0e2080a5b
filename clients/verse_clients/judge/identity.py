"""Who stands behind a judge's name: what the server's list of models says of it.

Behind one name and address another model may stand tomorrow; `base` on port 8000 is whatever was
started there. When a model was listed (`created`) says nothing: several servers tell the time of
the request.
"""

from typing import Protocol

from verse_clients.answers import ServedModel
from verse_clients.errors import (
    BadRequestError,
    BrokenServerError,
    NoCompletionError,
    QuotaError,
    RateLimitedError,
    ServerDownError,
    ServerError,
    ServerTimeoutError,
    UnauthorisedError,
    UnknownModelError,
)

NOT_NOW = (
    ServerDownError, ServerTimeoutError, RateLimitedError, QuotaError, BrokenServerError,
    UnauthorisedError,
)  # fmt: skip
"""Errors after which the server may say who it is another time, or with a key."""


class Lister(Protocol):
    """A server that lists its models; see `openai_client.AsyncServer`."""

    async def models(self) -> list[ServedModel]:
        """All of them."""
        ...

    async def model(self, name: str) -> ServedModel:
        """One of them."""
        ...


async def identity_of(server: Lister, name: str) -> str:
    """What a server says of a model beyond its name; empty if it says no more, or nothing.

    Raises:
        ServerError: one of `NOT_NOW`.
    """
    try:
        found = await _listed(server, name)
    except NOT_NOW:
        raise
    except ServerError:
        return ""
    if found is None:
        return ""
    said = {"id": found.id, "root": found.root, "digest": found.digest}
    return " ".join(f"{key}={value}" for key, value in said.items() if value and value != name)


async def _listed(server: Lister, name: str) -> ServedModel | None:
    """A model by its name; else the only one there is, which answers to every name."""
    try:
        return await server.model(name)
    except (UnknownModelError, NoCompletionError, BadRequestError):
        models = await server.models()
        named = [model for model in models if model.id == name]
        return (named or models)[0] if named or len(models) == 1 else None
