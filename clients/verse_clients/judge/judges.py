"""The judges of a run: from names on a command line to who is asked where, at which price."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from verse.terminal import counted
from verse_clients.errors import InputError
from verse_clients.judge.client import Judge, JudgeContext
from verse_clients.judge.costs import FREE, Price, price_of
from verse_clients.judge.log_probabilities import LikelihoodJudge
from verse_clients.judge.ranked import LIKELIHOOD
from verse_clients.openai_client import AsyncServer
from verse_clients.options import JUDGE_CONCURRENCY
from verse_clients.retries import RetryPolicy
from verse_clients.server_pool import ServerPool

DEFAULT_JUDGE = "base"
DEFAULT_KEY = "OPENAI_API_KEY"
_NO_KEY = "unused"
_LOCAL_TRIES = 2  # a server on this machine does the whole work again
_REMOTE_TRIES = 3


class JudgeSpec(NamedTuple):
    """One judge as the command line names it."""

    model: str
    base_urls: tuple[str | None, ...]
    """Where it is; several share its questions."""
    key_name: str
    """Name of the environment variable with the key."""
    given_key: str | None = None
    """The key itself, in place of the variable's."""

    @property
    def key(self) -> str | None:
        """None if there is none."""
        return self.given_key or os.environ.get(self.key_name)


class ResolvedJudge(NamedTuple):
    """One judge, with all that is known about it before it is asked."""

    name: str
    """What reports call it."""
    model: str
    servers: ServerPool[AsyncServer]
    price: Price | None

    @property
    def server(self) -> AsyncServer:
        """The first: it stands for all where one is enough."""
        return self.servers.servers[0]


class ConnectionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How servers are treated; nothing here changes an answer."""

    concurrency: int | None = None
    """Questions at a time for each judge, to each of its servers; None for what suits them."""
    wait_seconds: float = 3600.0
    timeout_seconds: float = 600.0
    price: Price | None = None
    """For all judges, in place of the table's."""


def judge_specs(
    models: Sequence[str],
    base_urls: Sequence[str],
    key_names: Sequence[str],
    given_keys: Sequence[str] = (),
) -> list[JudgeSpec]:
    """Pair judges with servers and keys: one each, or one for all; or all servers for one judge.

    Raises:
        InputError: the numbers do not fit, or keys are given in two ways.
    """
    if key_names and given_keys:
        raise InputError("Give --api-key or --key-env, not both.")
    named = list(models) or [DEFAULT_JUDGE]
    one_each = [] if len(named) == 1 else _one_each(base_urls, len(named), "--base-url")
    urls = [(url,) for url in one_each] or [tuple(base_urls) or (None,)] * len(named)
    keys = _one_each(key_names, len(named), "--key-env") or [DEFAULT_KEY] * len(named)
    given = _one_each(given_keys, len(named), "--api-key") or [None] * len(named)
    return [JudgeSpec(*row) for row in zip(named, urls, keys, given, strict=True)]


class JudgePool:
    """The judges, with their servers."""

    def __init__(
        self,
        named: Sequence[JudgeSpec],
        connection: ConnectionOptions,
        tell: Callable[[str], object],
    ) -> None:
        """Connect to nobody yet; `tell` takes a line for the person who waits."""
        self._connection = connection
        self._tell = tell
        self._specs = named
        self._policies: dict[str, RetryPolicy] = {}
        pools = [self._pool(spec) for spec in named]
        self.resolved = [
            ResolvedJudge(name, spec.model, pool, self._price(spec, pool.servers[0]))
            for name, spec, pool in zip(_names(named, pools), named, pools, strict=True)
        ]

    def judges(self, context: JudgeContext) -> list[Judge]:
        """The judges at a context. Those of one server wait for it together."""
        return [
            Judge(
                judge.name,
                judge.model,
                judge.servers,
                context,
                price=judge.price,
                concurrency=judge.servers.num_slots,
            )
            for judge in self.resolved
            if judge.name != LIKELIHOOD
        ]

    def likelihood(self, context: JudgeContext) -> LikelihoodJudge | None:
        """The judge that is not asked but has log-probabilities computed, if it is named."""
        return next(
            (
                LikelihoodJudge(judge.servers, context, concurrency=judge.servers.num_slots)
                for judge in self.resolved
                if judge.name == LIKELIHOOD
            ),
            None,
        )

    def check_limit(self, max_cost: float | None) -> None:
        """See that all prices are known if dollars are counted.

        Raises:
            InputError: one is not.
        """
        for judge in self.resolved:
            if max_cost is not None and judge.price is None:
                raise InputError(
                    f"--max-cost needs a price, and none is known for {judge.model}; "
                    "give --price, or use --max-calls."
                )

    def missing_key(self) -> str | None:
        """The first variable that should hold a key and does not; None if all are set."""
        return next((spec.key_name for spec in self._specs if not spec.key), None)

    async def close(self) -> None:
        """Let go of all servers."""
        for judge in self.resolved:
            await judge.servers.close()

    def _pool(self, spec: JudgeSpec) -> ServerPool[AsyncServer]:
        servers = [self._server(spec, base_url) for base_url in spec.base_urls]
        return ServerPool(
            servers,
            slots=self._slots,
            wait_seconds=self._connection.wait_seconds,
            now=time.monotonic,
            sleep=asyncio.sleep,
            report=self._tell,
            max_tries=_LOCAL_TRIES if servers[0].is_local else _REMOTE_TRIES,
            policy=self._policy,
        )

    def _server(self, spec: JudgeSpec, base_url: str | None) -> AsyncServer:
        # The SDK's own retries are off: the budget counts each attempt, and `RetryPolicy` waits.
        return AsyncServer(
            base_url,
            # Never the key of another server: AsyncServer would look for OPENAI_API_KEY.
            spec.key or _NO_KEY,
            timeout_seconds=self._connection.timeout_seconds,
            max_retries=0,
        )

    def _price(self, spec: JudgeSpec, server: AsyncServer) -> Price | None:
        if self._connection.price is not None:
            return self._connection.price
        is_own = server.is_local or spec.model == LIKELIHOOD
        return FREE if is_own else price_of(spec.model, server.base_url)

    def _policy(self, server: AsyncServer) -> RetryPolicy:
        """One a server, by its address: judges of the same one wait for it together."""
        made = RetryPolicy(
            self._connection.wait_seconds,
            now=time.monotonic,
            sleep=asyncio.sleep,
            report=self._tell,
            max_tries=_LOCAL_TRIES if server.is_local else _REMOTE_TRIES,
        )
        return self._policies.setdefault(server.base_url, made)

    def _slots(self, server: AsyncServer) -> int:
        usual = JUDGE_CONCURRENCY.for_server(is_local=server.is_local)
        return self._connection.concurrency or usual


def _names(named: Sequence[JudgeSpec], pools: Sequence[ServerPool[AsyncServer]]) -> list[str]:
    """The model, and where it is if several servers have it."""
    times = Counter(spec.model for spec in named)
    if times[LIKELIHOOD] > 1:
        raise InputError(f"--judge {LIKELIHOOD} is given twice; one server computes it.")
    names = [
        spec.model if times[spec.model] == 1 else f"{spec.model} at {pool.address}"
        for spec, pool in zip(named, pools, strict=True)
    ]
    if len(set(names)) < len(names):
        raise InputError("The same judge is given twice; name different judges.")
    return names


def _one_each(values: Sequence[str], number: int, flag: str) -> list[str]:
    if len(values) == 1:
        return [values[0]] * number
    if values and len(values) != number:
        raise InputError(
            f"{counted(number, 'judge')} but {len(values)} {flag}; "
            "give one for each judge, or one for all."
        )
    return list(values)
