"""How ranks meet before mlx connects them: all of them, with the same versions, in limited time."""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata

from verse.machines import MachinesError, TurnedAwayError
from verse.machines.launch import Address, Launch
from verse.machines.messages import (
    Connection,
    GaveUp,
    Hello,
    Welcome,
    connect,
    listen,
)
from verse.machines.ranks import Exit, OnFailure, Ranks, capitalised, say_nothing

_JOIN_SECONDS = 60.0
_HELLO_SECONDS = 5.0
_CONNECT_SECONDS = 5.0
_RETRY_SECONDS = 0.1


def versions() -> dict[str, str]:
    """What must be the same on all ranks."""
    packages = {"Verse": "verse-workshop", "mlx": "mlx", "mlx-lm": "mlx-lm"}
    found: dict[str, str] = {}
    for name, package in packages.items():
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(package)
    return found


def meet(
    launch: Launch | None,
    facts: Mapping[str, str],
    *,
    on_failure: OnFailure = say_nothing,
    end: Exit = os._exit,
    join_seconds: float = _JOIN_SECONDS,
) -> Ranks:
    """Wait until all ranks have come, and see that they have the same facts.

    Args:
        launch: This process's; None if it is alone.
        facts: What must be the same on all of them, by name, such as `versions()`.
        on_failure: See `Ranks`.
        end: Ends the process.
        join_seconds: How long to wait for the last one.

    Raises:
        MachinesError: a port is in use, a rank does not come, or has another version.
    """
    if launch is None:
        return Ranks.alone()
    if launch.rank > 0:
        connections = {0: _come(launch, facts, join_seconds)}
        return Ranks(launch, connections, on_failure=on_failure, end=end)
    _check_ports(launch)
    listener = listen_at(launch.contact, launch.size)
    come: dict[int, Connection] = {}
    try:
        _welcome(launch, listener, facts, join_seconds, come)
    except BaseException:
        listener.close()
        for connection in come.values():
            connection.close()
        raise
    return Ranks(launch, come, listener=listener, on_failure=on_failure, end=end)


def _check_ports(launch: Launch) -> None:
    """The ring of mlx would share a port with a program that has it, and wait for ever."""
    if launch.addresses:
        for address in launch.addresses[launch.rank]:
            listen_at(address, 1).close()


def listen_at(address: Address, backlog: int) -> socket.socket:
    """Listen at an address of this machine.

    Raises:
        MachinesError: the port is in use, or the address is another machine's.
    """
    try:
        return listen(address, backlog)
    except OSError as error:
        raise MachinesError(
            f"{address} cannot be listened at ({reason_of(error)}): stop what uses that port, give "
            "another --starting-port, or put an address of this machine into the hostfile."
        ) from error


def reason_of(error: OSError) -> str:
    """In the system's words."""
    return os.strerror(error.errno).lower() if error.errno else str(error)


def _welcome(
    launch: Launch,
    listener: socket.socket,
    facts: Mapping[str, str],
    join_seconds: float,
    come: dict[int, Connection],
) -> None:
    """Rank 0: take the others in as they come."""
    deadline = time.monotonic() + join_seconds
    while len(come) < launch.size - 1:
        listener.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            sock, _ = listener.accept()
        except TimeoutError as error:
            missing = [launch.describe(r) for r in range(1, launch.size) if r not in come]
            raise MachinesError(
                f"{capitalised(', '.join(missing))} did not come within {join_seconds:.0f} s: "
                f"see that Verse starts there and that {launch.contact} can be reached from there."
            ) from error
        _take_in(launch, Connection(sock), facts, come)
    for connection in come.values():
        connection.send(Welcome())


def _take_in(
    launch: Launch, connection: Connection, facts: Mapping[str, str], come: dict[int, Connection]
) -> None:
    hello = connection.greeting(_HELLO_SECONDS)
    try:
        if isinstance(hello, GaveUp):
            raise MachinesError(hello.sentence)
        if hello is not None:  # None: a scanner of ports, perhaps
            _check(launch, hello, facts, come)
            come[hello.rank] = connection
    finally:
        if connection not in come.values():
            connection.close()


def _check(
    launch: Launch, hello: Hello, facts: Mapping[str, str], come: Mapping[int, Connection]
) -> None:
    if hello.size != launch.size or not 0 < hello.rank < launch.size or hello.rank in come:
        raise MachinesError(
            f"A process came as rank {hello.rank} of {hello.size} where rank 0 has "
            f"{launch.size} in all and wants each once: is another run on the same ports?"
        )
    for name in sorted({*facts, *hello.facts}):
        ours, theirs = facts.get(name), hello.facts.get(name)
        if ours != theirs:
            raise MachinesError(
                f"{capitalised(launch.describe(hello.rank))} has {name} {theirs or 'not at all'}, "
                f"rank 0 has {ours or 'none'}: install the same on all machines."
            )


def _come(launch: Launch, facts: Mapping[str, str], join_seconds: float) -> Connection:
    """Another rank: reach rank 0, which may not be there yet."""
    deadline = time.monotonic() + join_seconds
    while True:
        try:
            connection = connect(launch.contact, _CONNECT_SECONDS)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise MachinesError(
                    f"{capitalised(launch.describe(launch.rank))} did not reach rank 0 at "
                    f"{launch.contact} within {join_seconds:.0f} s ({reason_of(error)})."
                ) from error
            time.sleep(_RETRY_SECONDS)
    try:
        _check_ports(launch)
    except MachinesError as error:
        connection.send(GaveUp(f"{capitalised(launch.describe(launch.rank))}: {error}"))
        connection.close()
        raise TurnedAwayError(str(error)) from error
    connection.send(Hello(rank=launch.rank, size=launch.size, facts=dict(facts)))
    seconds = max(0.0, deadline - time.monotonic()) + _HELLO_SECONDS
    answer = connection.receive(timeout_seconds=seconds)
    if isinstance(answer, Welcome):
        return connection
    connection.close()
    raise TurnedAwayError(
        f"{capitalised(launch.describe(launch.rank))} was turned away by rank 0, which says why, "
        "or is gone."
    )
