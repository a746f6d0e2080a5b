"""The judges of a run: from names on a command line to who is asked where, at which price."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from verse_clients.errors import InputError
from verse_clients.judge.client import Desk, Judge
from verse_clients.judge.costs import FREE, Price, price_of
from verse_clients.judge.errors import LimitError
from verse_clients.judge.options import LOCAL_CONCURRENCY, REMOTE_CONCURRENCY
from verse_clients.openai_client import AsyncServer
from verse_clients.retries import RetryPolicy

DEFAULT_JUDGE = "base"
DEFAULT_KEY = "OPENAI_API_KEY"
_NO_KEY = "unused"
_LOCAL_TRIES = 2  # a server on this machine does the whole work again
_REMOTE_TRIES = 3


class Seat(NamedTuple):
    """One judge as the command line names it."""

    model: str
    base_url: str | None
    key_name: str
    """Name of the environment variable with the key."""
    given_key: str | None = None
    """The key itself, in place of the variable's."""

    @property
    def key(self) -> str | None:
        """None if there is none."""
        return self.given_key or os.environ.get(self.key_name)


class Member(NamedTuple):
    """One judge, with all that is known about it before it is asked."""

    name: str
    """What reports call it."""
    model: str
    server: AsyncServer
    price: Price | None


class Manners(msgspec.Struct, frozen=True, kw_only=True):
    """How servers are treated; nothing here changes an answer."""

    concurrency: int | None = None
    """Questions at a time for each judge; None for what suits its server."""
    wait_seconds: float = 3600.0
    timeout_seconds: float = 600.0
    price: Price | None = None
    """For all judges, in place of the table's."""


def seats(
    models: Sequence[str],
    base_urls: Sequence[str],
    key_names: Sequence[str],
    given_keys: Sequence[str] = (),
) -> list[Seat]:
    """Pair judges with servers and keys: one each, or one for all.

    Raises:
        InputError: the numbers do not fit, or keys are given in two ways.
    """
    if key_names and given_keys:
        raise InputError("Give --api-key or --key-env, not both.")
    named = list(models) or [DEFAULT_JUDGE]
    urls = _one_each(base_urls, len(named), "--base-url") or [None] * len(named)
    keys = _one_each(key_names, len(named), "--key-env") or [DEFAULT_KEY] * len(named)
    given = _one_each(given_keys, len(named), "--api-key") or [None] * len(named)
    return [Seat(*row) for row in zip(named, urls, keys, given, strict=True)]


class Panel:
    """The judges, with their servers."""

    def __init__(
        self, named: Sequence[Seat], manners: Manners, tell: Callable[[str], object]
    ) -> None:
        """Connect to nobody yet; `tell` takes a line for the person who waits."""
        self._manners = manners
        self._tell = tell
        self._seats = named
        servers = [self._server(seat) for seat in named]
        self.members = [
            Member(name, seat.model, server, self._price(seat, server))
            for name, seat, server in zip(_names(named, servers), named, servers, strict=True)
        ]

    def judges(self, desk: Desk) -> list[Judge]:
        """The judges at a desk. Those of one server wait for it together."""
        servers = {member.server.base_url: member.server for member in self.members}
        retries = {base_url: self._retries(server) for base_url, server in servers.items()}
        return [
            Judge(
                member.name,
                member.model,
                member.server,
                desk,
                retries[member.server.base_url],
                price=member.price,
                concurrency=self._concurrency(member.server),
            )
            for member in self.members
        ]

    def check_limit(self, max_cost: float | None) -> None:
        """See that all prices are known if dollars are counted.

        Raises:
            LimitError: one is not.
        """
        for member in self.members:
            if max_cost is not None and member.price is None:
                raise LimitError(
                    f"--max-cost cannot be kept: nobody knows the price of {member.model}; "
                    "give --price, or use --max-calls."
                )

    def missing_key(self) -> str | None:
        """The first variable that should hold a key and does not; None if all are set."""
        return next((seat.key_name for seat in self._seats if not seat.key), None)

    async def close(self) -> None:
        """Let go of all servers."""
        for member in self.members:
            await member.server.close()

    def _server(self, seat: Seat) -> AsyncServer:
        # The SDK's own retries are off: the budget counts each attempt, and `RetryPolicy` waits.
        return AsyncServer(
            seat.base_url,
            # Never the key of another server: AsyncServer would look for OPENAI_API_KEY.
            seat.key or _NO_KEY,
            timeout_seconds=self._manners.timeout_seconds,
            max_retries=0,
        )

    def _price(self, seat: Seat, server: AsyncServer) -> Price | None:
        if self._manners.price is not None:
            return self._manners.price
        return FREE if server.is_local else price_of(seat.model, server.base_url)

    def _retries(self, server: AsyncServer) -> RetryPolicy:
        return RetryPolicy(
            self._manners.wait_seconds,
            now=time.monotonic,
            sleep=asyncio.sleep,
            report=self._tell,
            max_tries=_LOCAL_TRIES if server.is_local else _REMOTE_TRIES,
        )

    def _concurrency(self, server: AsyncServer) -> int:
        usual = LOCAL_CONCURRENCY if server.is_local else REMOTE_CONCURRENCY
        return self._manners.concurrency or usual


def _names(named: Sequence[Seat], servers: Sequence[AsyncServer]) -> list[str]:
    """The model, and where it is if several servers have it."""
    times = Counter(seat.model for seat in named)
    names = [
        seat.model if times[seat.model] == 1 else f"{seat.model} at {server.base_url}"
        for seat, server in zip(named, servers, strict=True)
    ]
    if len(set(names)) < len(names):
        raise InputError("One judge is named twice; a second opinion needs another one.")
    return names


def _one_each(values: Sequence[str], number: int, flag: str) -> list[str]:
    if len(values) == 1:
        return [values[0]] * number
    if values and len(values) != number:
        raise InputError(
            f"{number} judges and {len(values)} {flag} do not pair; give one for each, or one."
        )
    return list(values)
