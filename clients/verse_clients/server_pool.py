"""Several servers as one: whichever is free takes the next request; none has a share of its own.

    ask         of any server; one that goes away gives back what it was asked, and another takes it
    ask_first   of the first in their order that answers: what a run begins with
    agree       from here on all have the same weights; one that has others is refused

A server that is away is looked at again and again; when it answers, and has the same weights, it
joins. One that has answered nothing for a while is looked at too: a machine that fell asleep closes
no connection. One server alone is asked as ever, by its `RetryPolicy`.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from math import inf
from typing import Any, Generic, Protocol, TypeVar

from verse_clients.errors import (
    BrokenServerError,
    InputError,
    RateLimitedError,
    SelectionError,
    ServerDownError,
    ServerError,
    ServerTimeoutError,
)
from verse_clients.model_identity import ModelLister, versions_of
from verse_clients.retries import MAX_TRIES, RetryPolicy, next_step

_LOOK_SECONDS = 15.0
"""Without an answer from a server that was asked: then it is looked at."""
_SILENT_SECONDS = 60.0
"""Without an answer to that look: then it is away."""
_TICK_SECONDS = 0.5
_BETWEEN_TRIES_SECONDS = 1.0
_SHOWN_DIGITS = 12
_AWAY = (ServerDownError, ServerTimeoutError, RateLimitedError, BrokenServerError)


class PooledServer(ModelLister, Protocol):
    """What can be in a pool; see `openai_client.AsyncServer`."""

    base_url: str
    is_local: bool

    async def close(self) -> None:
        """Let go of it."""
        ...


S = TypeVar("S", bound=PooledServer)
S_co = TypeVar("S_co", bound=PooledServer, covariant=True)
T = TypeVar("T")
Request = Callable[[S], Coroutine[Any, Any, T]]


class _GivenBackError(Exception):
    """A server fell silent; what it was asked goes to another."""


class _Member(Generic[S]):
    """One server, and how it fares."""

    def __init__(self, server: S, slots: int, policy: RetryPolicy) -> None:
        self.server = server
        self.name = server.base_url
        self.slots = slots
        """Requests that it gets at a time."""
        self.policy = policy
        self.taken = 0
        self.running: set[asyncio.Task[Any]] = set()
        self.is_away = False
        self.is_refused = False
        self.is_told = False
        """Whether the person who waits knows that it was away."""
        self.answered_at = -inf

    @property
    def is_ready(self) -> bool:
        """Whether it may be asked something now."""
        is_there = not (self.is_away or self.is_refused)
        return is_there and self.policy.rest_seconds <= 0 and self.taken < self.slots

    @property
    def busy_share(self) -> float:
        """Of its slots, 0 to 1."""
        return self.taken / self.slots


class ServerPool(Generic[S_co]):
    """Servers that are asked as one."""

    def __init__(
        self,
        servers: Sequence[S_co],
        *,
        slots: Callable[[S_co], int],
        wait_seconds: float,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        report: Callable[[str], object],
        max_tries: int = MAX_TRIES,
        policy: Callable[[S_co], RetryPolicy] | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            servers: At least one; the first comes first where only one is asked.
            slots: How many requests a server gets at a time.
            wait_seconds: The longest time without an answer of any.
            now: A clock, in seconds.
            sleep: Lets seconds pass.
            report: Takes a line for the person who waits.
            max_tries: Of one request that is answered, but not with what was asked for.
            policy: Of one server alone, where others wait for it as well.

        Raises:
            InputError: a server is given twice.
        """
        _refuse_twice([server.base_url for server in servers])
        self._is_single = len(servers) == 1
        self._wait = wait_seconds
        self._now = now
        self._sleep = sleep
        self._report = report
        self._max_tries = max_tries
        wait, tell = (wait_seconds, report) if self._is_single else (inf, _say_nothing)

        def usual(_: S_co) -> RetryPolicy:
            return RetryPolicy(wait, now=now, sleep=sleep, report=tell, max_tries=max_tries)

        policy = policy if policy is not None and self._is_single else usual
        self._members = [_Member(each, slots(each), policy(each)) for each in servers]
        self._names: tuple[str, ...] = ()
        self._versions: dict[str, str] = {}
        self._reference = self._members[0].name
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._watchers: list[asyncio.Task[None]] = []
        self._none_since = inf
        self._last_error: ServerError = ServerDownError("No server answers.")

    @property
    def servers(self) -> list[S_co]:
        """All of them, in their order."""
        return [member.server for member in self._members]

    @property
    def address(self) -> str:
        """Of all, in words."""
        return ", ".join(member.name for member in self._members)

    @property
    def num_slots(self) -> int:
        """Requests that all of them get at a time."""
        return sum(member.slots for member in self._members)

    async def ask(self, request: Request[S_co, T]) -> T:
        """Make a request of whichever server is free, until one answers it.

        Raises:
            ServerError: waiting does not help, or took too long.
        """
        return await self._ask(request, in_order=False)

    async def ask_first(self, request: Request[S_co, T]) -> T:
        """As `ask`, of the first server that answers."""
        return await self._ask(request, in_order=True)

    async def agree(self, names: Iterable[str]) -> None:
        """See that all servers have the same weights under these names, now and when one joins.

        A server that is away is told of, and nobody waits for it while another answers.

        Raises:
            SelectionError: two of them differ.
            ServerError: one refuses, or all are away for too long.
        """
        if self._is_single:
            return
        self._watch_all()
        self._names = tuple(names)
        found: dict[str, dict[str, str]] = {}
        while not found:
            looks = await asyncio.gather(*(self._versions_at(each) for each in self._members))
            names_ = (member.name for member in self._members)
            pairs = zip(names_, looks, strict=True)
            found = {name: said for name, said in pairs if said is not None}
            if not found:
                (await self._take(None, in_order=True)).taken -= 1
        self._reference, self._versions = next(iter(found.items()))
        for name, said in found.items():
            if problem := self._difference(name, said):
                raise SelectionError(f"{problem} Give all servers the same files.")

    async def close(self) -> None:
        """Let go of all servers."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for member in self._members:
            await member.server.close()

    # Asking

    async def _ask(self, request: Request[S_co, T], *, in_order: bool) -> T:
        if self._is_single:
            (only,) = self._members
            return await only.policy.ask(lambda: request(only.server))
        self._watch_all()
        tries, failed = 0, None
        while True:
            member = await self._take(failed, in_order=in_order)
            if member is failed:
                await self._sleep(_BETWEEN_TRIES_SECONDS)
            begun = self._now()
            try:
                answer = await self._requested(member, request)
            except _GivenBackError:
                failed = None
            except ServerError as error:
                decided = next_step(error, tries + 1, self._max_tries)
                if decided == "give up":
                    raise
                if decided == "pause":
                    self._pause(member, error, begun)
                else:
                    tries, failed = tries + 1, member
            else:
                self._answered(member)
                return answer
            finally:
                member.taken -= 1
                self._wake(1)

    async def _requested(self, member: _Member[S_co], request: Request[S_co, T]) -> T:
        """One answer of one server, by a task that can be ended if the server falls silent."""
        task = asyncio.create_task(request(member.server))
        member.running.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is None or current.cancelling():
                raise
            raise _GivenBackError from None
        finally:
            member.running.discard(task)

    async def _take(self, failed: _Member[S_co] | None, *, in_order: bool) -> _Member[S_co]:
        """A slot of a server that is ready; of the one that failed only where no other is.

        Raises:
            ServerError: all have been away for too long.
        """
        while True:
            ready = [member for member in self._members if member.is_ready]
            ready = [member for member in ready if member is not failed] or ready
            if ready:
                chosen = ready[0] if in_order else min(ready, key=lambda m: m.busy_share)
                chosen.taken += 1
                return chosen
            if self._now() - self._none_since >= self._wait:
                raise self._last_error
            await self._turn()

    async def _turn(self) -> None:
        """Wait until a slot may be free; first come, first served."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._wake(1)  # it was this one's turn; it is the next one's now
            raise

    def _wake(self, number: int) -> None:
        while number > 0 and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                number -= 1

    # How servers fare

    def _answered(self, member: _Member[S_co]) -> None:
        member.answered_at = self._now()
        member.policy.answered()
        self._none_since = inf
        if member.is_told:
            member.is_told = False
            self._report(f"{member.name} answers, and has joined.")

    def _pause(self, member: _Member[S_co], error: ServerError, begun: float) -> None:
        """Leave a server alone; one that did not ask for it is away until it was looked at."""
        member.policy.pause(error, begun)
        if isinstance(error, RateLimitedError) or member.is_away:
            return
        member.is_away = True
        others = any(not (m.is_away or m.is_refused) for m in self._members)
        if others and not member.is_told:
            self._report(f"{error} Others do its share; it joins when it answers.")
        elif not others and self._none_since == inf:
            self._none_since = self._now()
            self._last_error = ServerDownError(f"None of the servers answers: {self.address}.")
            if self._wait:
                wait = f"Waiting up to {self._wait:.0f} s; Ctrl-C stops."
                self._report(f"{self._last_error} {wait}")
        member.is_told = True

    def _watch_all(self) -> None:
        if not self._watchers:
            self._watchers = [asyncio.create_task(self._watch(each)) for each in self._members]

    async def _watch(self, member: _Member[S_co]) -> None:
        """Look at one server again and again: when it is away, or has been silent for a while."""
        looked_at = -inf
        while not member.is_refused:
            await self._sleep(_TICK_SECONDS)
            if member.is_away:
                if member.policy.rest_seconds <= 0:
                    await self._look_for(member)
            elif (
                member.running and self._now() - max(looked_at, member.answered_at) > _LOOK_SECONDS
            ):
                await self._look_at(member)
                looked_at = self._now()
            self._wake(member.slots)

    async def _look_for(self, member: _Member[S_co]) -> None:
        """Let a server that was away join, if it answers and has the same weights."""
        names = self._names
        try:
            said = await self._versions_at(member)
        except ServerError as error:  # a wrong key, or no API at all
            problem = str(error)
        else:
            if said is None or names != self._names:
                return
            problem = self._difference(member.name, said)
        if problem is not None:
            member.is_refused = True
            self._report(f"{problem} It gets no share.")
            return
        member.is_away = False

    async def _look_at(self, member: _Member[S_co]) -> None:
        """Take back what a server was asked that does not even list its models."""
        begun = self._now()
        try:
            async with asyncio.timeout(_SILENT_SECONDS):
                await member.server.models()
        except (ServerDownError, ServerTimeoutError, TimeoutError):
            if member.answered_at < begun:  # else it is slow, and not away
                error = ServerDownError(f"{member.name} does not answer any more.")
                self._pause(member, error, self._now())
                for task in member.running:
                    task.cancel()
        except ServerError:
            pass  # it is there; what is wrong is said when it is asked

    async def _versions_at(self, member: _Member[S_co]) -> dict[str, str] | None:
        """What stands behind the names at one server; None if it is away."""
        begun = self._now()
        try:
            async with asyncio.timeout(_SILENT_SECONDS):
                if not self._names:  # nothing is asked for yet: it is enough that it answers
                    await member.server.models()
                return await versions_of(member.server, self._names)
        except TimeoutError:
            error = ServerDownError(f"{member.name} does not answer.")
        except _AWAY as caught:
            error = caught
        self._pause(member, error, begun)
        return None

    def _difference(self, name: str, said: dict[str, str]) -> str | None:
        """Where a server differs from the first that answered."""
        for model, version in self._versions.items():
            if model not in said:
                return f"{name} has no model {model!r}, which {self._reference} has."
            if said[model] != version:
                theirs, ours = (text[:_SHOWN_DIGITS] or "none" for text in (said[model], version))
                return (
                    f"{name} has another {model!r} than {self._reference}: "
                    f"their digests are {theirs} and {ours}."
                )
        return None


def _refuse_twice(base_urls: Sequence[str]) -> None:
    seen: set[str] = set()
    for url in base_urls:
        if (plain := url.rstrip("/").lower()) in seen:
            raise InputError(f"--base-url {url} is given twice; name each server once.")
        seen.add(plain)


def _say_nothing(_: str) -> None:
    """The pool itself tells what concerns one of several servers."""
