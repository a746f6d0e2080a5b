"""When an answer's pieces arrive, as the system sees it.

A client on the machine that is measured reads late when others want the same cores, and would take
that for the server's pause. So the time of a piece is the one at which its bytes came to the socket
(Linux says so with each read), and the client goes before others where it may. What is read at once
counts as come when its last byte came: a gap may be told too wide, never too narrow.
"""

import asyncio
import os
import socket
import struct
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager, suppress
from typing import NamedTuple

_SO_TIMESTAMPNS = 35
"""Linux's number, which `socket` has no name for."""
_TIMESPEC = struct.Struct("@qq")
_READ_BYTES = 65536
_PRIORITY = -10


class Piece(NamedTuple):
    """Bytes that came together."""

    data: bytes
    at: float
    """In seconds of `time.perf_counter`."""


@contextmanager
def going_first() -> Generator[None]:
    """Let this process be woken before others, as long as the block runs.

    Without the right to, nothing changes. What is started in it goes first as well; a server that
    is to be measured must not.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


async def arrivals(port: int, request: bytes) -> AsyncGenerator[Piece, None]:
    """Send a request on a new connection, and give what comes back until the server closes it."""
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setblocking(False)
        with suppress(OSError):  # another system: then the time of the read has to do
            connection.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(connection, request)
        while (piece := await _read(loop, connection)).data:
            yield piece


async def _read(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> Piece:
    while True:
        try:
            data, ancillary, _flags, _address = connection.recvmsg(_READ_BYTES, 128)
        except BlockingIOError:
            await _readable(loop, connection)
        else:
            return Piece(data, _arrived(ancillary))


async def _readable(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
    ready = loop.create_future()
    loop.add_reader(connection, lambda: ready.done() or ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(connection)


def _arrived(ancillary: list[tuple[int, int, bytes]]) -> float:
    now = time.perf_counter()
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = _TIMESPEC.unpack(data[: _TIMESPEC.size])
            return now - max(0.0, time.time() - seconds - nanoseconds * 1e-9)
    return now
