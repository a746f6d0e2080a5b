"""Ranks that meet inside one process, each in a thread: what the tests of machines share."""

import random
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from verse.machines.launch import Address, Launch
from verse.machines.meeting import meet
from verse.machines.ranks import Ranks


def free_ports(count: int) -> int:
    """The first of some ports in a row that nobody has."""
    while True:
        first = random.randrange(20000, 30000)
        with suppress(OSError):
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
            return first


def launches(size: int) -> list[Launch]:
    """What each rank of a ring on this machine is told."""
    port = free_ports(size + 1)
    addresses = tuple((Address("127.0.0.1", port + rank),) for rank in range(size))
    contact = Address("127.0.0.1", port + size)
    return [
        Launch(rank=rank, size=size, backend="ring", contact=contact, addresses=addresses)
        for rank in range(size)
    ]


@dataclass
class Played:
    """What became of one rank."""

    result: object = None
    error: BaseException | None = None
    told: list[str] = field(default_factory=list[str])
    """What it was to tell the user."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when its process would have ended."""


def play(
    part: Callable[[Ranks], object],
    size: int = 2,
    facts: Callable[[int], Mapping[str, str]] = lambda _rank: {"mlx": "1"},
    join_seconds: float = 20.0,
    absent: tuple[int, ...] = (),
) -> list[Played]:
    """Let every rank do its part to the end."""
    return play_launches(launches(size), part, facts, join_seconds, absent)


def play_launches(
    launched: Sequence[Launch],
    part: Callable[[Ranks], object] = lambda _ranks: None,
    facts: Callable[[int], Mapping[str, str]] = lambda _rank: {"mlx": "1"},
    join_seconds: float = 20.0,
    absent: tuple[int, ...] = (),
) -> list[Played]:
    """The same for ranks that were told something."""
    played = [Played() for _ in launched]

    def run(launch: Launch) -> None:
        own = played[launch.rank]
        try:
            with meet(
                launch,
                facts(launch.rank),
                on_failure=own.told.append,
                end=lambda _code: own.ended.set(),
                join_seconds=join_seconds,
            ) as ranks:
                own.result = part(ranks)
        except BaseException as error:  # noqa: BLE001  a test looks at it
            own.error = error

    present = [launch for launch in launched if launch.rank not in absent]
    threads = [threading.Thread(target=run, args=(launch,)) for launch in present]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return played
