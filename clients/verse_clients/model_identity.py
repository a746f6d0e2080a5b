"""Who answers to a model's name: what a server's list says of it beyond the name.

Behind one name and address another model may stand tomorrow; `base` on port 8000 is whatever was
started there. And two servers may have different weights under one name. When a model was listed
(`created`) says nothing: several servers tell the time of the request.
"""

from collections.abc import Iterable
from typing import Protocol

from verse.model_spelling import BASE
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


class ModelLister(Protocol):
    """A server that lists its models; see `openai_client.AsyncServer`."""

    async def models(self) -> list[ServedModel]:
        """All of them."""
        ...

    async def model(self, name: str) -> ServedModel:
        """One of them."""
        ...


async def identity_of(server: ModelLister, name: str) -> str:
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
    parts = name.split("+")
    if len(parts) > 1 and found.id != name:  # our server shows a blend as its first adapter
        return " + ".join([await identity_of(server, part) for part in parts])
    said = {"id": found.id, "root": found.root, "digest": found.digest}
    return " ".join(f"{key}={value}" for key, value in said.items() if value and value != name)


async def listed_context(server: ModelLister, name: str) -> int | None:
    """How many tokens a model can bear by its server's list; None where that does not tell.

    Raises:
        ServerError: it does not answer, or refuses.
    """
    found = await _listed(server, name)
    return found and found.context


async def versions_of(server: ModelLister, names: Iterable[str]) -> dict[str, str]:
    """Which weights stand behind names, and behind `base` below them.

    Returns:
        A digest for each; empty where the server tells none. A name that it does not have is
        missing, and so is the base of a server that knows no adapters.

    Raises:
        ServerError: it does not answer, or refuses.
    """
    versions: dict[str, str] = {}
    base: str | None = None
    for name in names:
        found = await _listed(server, name)
        if found is not None and not _is_adapter_of_none(name, found):
            versions[name] = _version(found)
            base = found.root or base
    if base is not None:
        listed = await _listed(server, base)
        # Its folder may be called otherwise on another machine, so the name is the last resort.
        versions[BASE] = (listed and _version(listed)) or base
    return versions


def _version(model: ServedModel) -> str:
    return model.digest or " ".join(part.digest or "" for part in model.parts)


async def _listed(server: ModelLister, name: str) -> ServedModel | None:
    """A model by its name; else the only one there is, which answers to every name."""
    try:
        return await server.model(name)
    except (UnknownModelError, NoCompletionError, BadRequestError):
        models = await server.models()
        named = [model for model in models if model.id == name]
        return (named or models)[0] if named or len(models) == 1 else None


def _is_adapter_of_none(name: str, found: ServedModel) -> bool:
    """Whether only a base is there where an adapter was asked for: a server that knows adapters."""
    return found.root == found.id and name not in (found.id, BASE)
