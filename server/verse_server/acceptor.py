"""Takes connections from a socket: all at once from the system, and into the server bit by bit.

A flood of connections costs the event loop 0.1 ms each. Begun as they come they would keep running
streams waiting, and `/health` behind them, for a tenth of a second or two. So they wait here, each
no more than an open file, and are begun at a pace: those first whose headers are here, and those
that have sent half of them, or nothing yet, more slowly. One that asks for `/health` is begun at
once.
"""

import asyncio
import ctypes
import logging
import os
import selectors
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import cast

from verse_server.crowd_selector import CrowdSelector
from verse_server.engine.errors import StartupError
from verse_server.turns import Pace

BACKLOG = 2048
"""Connections the system holds until they are accepted; a burst of 32 must not see a reset."""
_ACCEPTED_AT_ONCE = 128
_SILENT_AT_ONCE = 32
"""Of them; each may wait for the interpreter when it is begun to be watched."""
_BEGUN_AT_ONCE = 8
"""In one turn of the event loop, also when it is late: whoever else is ready comes between."""
_CONNECTION_SECONDS = 0.001
"""From one connection to the next, when there are many."""
_AT_ONCE_SECONDS = 64 * _CONNECTION_SECONDS
_UNSURE_SECONDS = 0.004
"""The same for those of which nobody knows whether they will ever ask."""
_UNSURE_AT_ONCE_SECONDS = 16 * _UNSURE_SECONDS
_PAUSE_SECONDS = 0.004
"""Between two looks at those that wait."""
_TURNS_UNTIL_READ = 3
"""Of the event loop, from a new connection to its first bytes."""
_MAX_HELD = 32
_PAUSE_WITHOUT_FILES_SECONDS = 1.0
_PROBES_AT_ONCE_SECONDS = 16 * _CONNECTION_SECONDS
_HEALTH = (b"GET /health ", b"GET /health?")
_PEEKED_BYTES = 4096
"""Whoever has sent so much is taken for a client whose headers are here."""

_log = logging.getLogger(__name__)


def bind(host: str, port: int) -> socket.socket:
    """Take the address. Whoever connects from now on waits for an `Acceptor`.

    Raises:
        StartupError: the address is in use, or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise StartupError(
            f"Cannot listen on {host} port {port} ({_reason(error)}); "
            "choose another address with --host and --port."
        ) from error


class Acceptor:
    """A listening socket. For uvicorn it stands where one of asyncio's servers would."""

    def __init__(
        self,
        sock: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        max_waiting: int,
        crowd: CrowdSelector | None = None,
    ) -> None:
        """Begin to accept on the running event loop.

        Args:
            sock: Listens already.
            make_protocol: Called for each connection, when it is begun.
            max_waiting: Connections that may wait here; more wait with the system.
            crowd: The event loop's selector, if it knows one: all but probes belong to it.
        """
        sock.setblocking(False)
        self._sock = sock
        self._make_protocol = make_protocol
        self._max_waiting = max_waiting
        self._crowd = crowd
        self._loop = asyncio.get_running_loop()
        self._pace, self._pace_of_unsure, self._pace_of_probes = Pace(), Pace(), Pace()
        self._waiting: dict[socket.socket, None] = {}
        """Those that have sent nothing yet, or half a request, the longest-waiting first."""
        self._asking: dict[socket.socket, None] = {}
        """Those whose headers are here."""
        self._silent = selectors.DefaultSelector()
        """Those of them from which nothing has come yet."""
        self._num_probing, self._num_unread, self._num_held = 0, 0, 0
        """Probes that are not read yet; all whose headers are here and who are not; and how often
        others have waited for that in a row."""
        self._beginning: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        """Due when there may be files again."""
        self._is_listening = False
        self._resume()

    def close(self) -> None:
        """Accept nothing more, and leave those that wait."""
        self._pause()
        for timer in (self._timer, self._retry):
            if timer is not None:
                timer.cancel()
        for connection in (*self._waiting, *self._asking):
            connection.close()
        self._waiting.clear()
        self._asking.clear()
        self._silent.close()

    async def wait_closed(self) -> None:
        """Nothing is left to wait for."""

    def _resume(self) -> None:
        if not self._is_listening and self._retry is None:
            self._loop.add_reader(self._sock, self._accept)
            self._is_listening = True

    def _on_retry(self) -> None:
        self._retry = None
        self._resume()

    def _pause(self) -> None:
        if self._is_listening:
            self._loop.remove_reader(self._sock)
            self._is_listening = False

    def _accept(self) -> None:
        """Take what the system has, in parts: streams get their turn between two."""
        most_silent = len(self._waiting) + _SILENT_AT_ONCE
        for _ in range(min(_ACCEPTED_AT_ONCE, self._max_waiting - self._num_waiting)):
            if len(self._waiting) > most_silent:
                break
            try:
                connection = _accepted(self._sock)
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError as error:  # no files are left
                _log.warning("no connection can be accepted: %s", error.strerror)
                self._pause()
                self._retry = self._loop.call_later(_PAUSE_WITHOUT_FILES_SECONDS, self._on_retry)
                break
            begun = _first_bytes(connection)
            if begun.startswith(_HEALTH) or not _is_asking(begun):
                self._waiting[connection] = None
                self._silent.register(connection, selectors.EVENT_READ)
            else:
                self._asking[connection] = None
        self._look()

    def _look(self) -> None:
        """Begin those whose turn it is: the unsure first and the probes last.

        The longest-waiting connection gives way when there are too many.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._loop.time()
        probes = self._sort_silent(now)
        for connection in list(islice(self._waiting, _BEGUN_AT_ONCE)):
            wait = self._pace_of_unsure.wait_seconds(now, _UNSURE_AT_ONCE_SECONDS)
            if wait > 0 or self._lets_others_be_read(self._num_unread):
                break
            self._pace_of_unsure.plan(now, _UNSURE_SECONDS)
            self._begin(connection)
        for connection in list(islice(self._asking, _BEGUN_AT_ONCE)):
            if not self._may_begin(now) or self._lets_others_be_read(self._num_probing):
                break
            self._pace.plan(now, _CONNECTION_SECONDS)
            self._begin(connection, is_asking=True)
        for connection in probes:
            self._begin(connection, is_asking=True, is_probe=True)
        if self._num_waiting:
            is_due = bool(self._asking) and self._may_begin(now) and not self._num_probing
            self._timer = self._loop.call_later(0.0 if is_due else _PAUSE_SECONDS, self._look)
        if self._num_waiting < self._max_waiting:
            self._resume()
        else:
            self._pause()

    @property
    def _num_waiting(self) -> int:
        return len(self._waiting) + len(self._asking)

    def _may_begin(self, now: float) -> bool:
        return self._pace.wait_seconds(now, _AT_ONCE_SECONDS) <= 0

    def _lets_others_be_read(self, num_others: int) -> bool:
        """Whether some have just begun: until they are read, others could take their room."""
        self._num_held = self._num_held + 1 if num_others else 0
        return 0 < self._num_held <= _MAX_HELD

    def _sort_silent(self, now: float) -> list[socket.socket]:
        """Look at what has come; returns those that ask for `/health` and may."""
        probes: list[socket.socket] = []
        for key, _ in self._silent.select(0) if self._waiting else ():
            connection = cast(socket.socket, key.fileobj)
            self._silent.unregister(connection)
            begun = _first_bytes(connection)
            wait = self._pace_of_probes.wait_seconds(now, _PROBES_AT_ONCE_SECONDS)
            if begun.startswith(_HEALTH) and wait <= 0:
                self._pace_of_probes.plan(now, _CONNECTION_SECONDS)
                probes.append(connection)
            elif _is_asking(begun):
                self._asking[connection] = None
            else:
                continue
            del self._waiting[connection]
        return probes

    def _begin(
        self, connection: socket.socket, *, is_asking: bool = False, is_probe: bool = False
    ) -> None:
        self._waiting.pop(connection, None)
        self._asking.pop(connection, None)
        with suppress(KeyError):
            self._silent.unregister(connection)
        if self._crowd is not None:
            self._crowd.expect(connection.fileno(), in_crowd=not is_probe)
        self._num_unread += is_asking
        self._num_probing += is_probe
        task = self._loop.create_task(self._connect(connection, is_asking, is_probe))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _connect(self, connection: socket.socket, is_asking: bool, is_probe: bool) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
            if is_asking:
                for _ in range(_TURNS_UNTIL_READ):
                    await asyncio.sleep(0)
        except OSError:  # it has gone meanwhile
            connection.close()
        finally:
            self._num_unread -= is_asking
            self._num_probing -= is_probe


def _is_asking(begun: bytes) -> bool:
    return b"\r\n\r\n" in begun or len(begun) == _PEEKED_BYTES


def _load_libc() -> ctypes.PyDLL | None:
    """The system's calls, made without letting go of the interpreter; None where there are others.

    `socket` lets go of it in each call, and each time may wait 0.5 ms until the thread of the model
    gives it back. These two take microseconds, and with a thousand connections at once everybody,
    `/health` included, would wait for the sum.
    """
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.PyDLL(None, use_errno=True)
    libc.accept4.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    libc.recv.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int]
    libc.recv.restype = ctypes.c_ssize_t
    return libc


_libc = _load_libc()


def _accepted(sock: socket.socket) -> socket.socket:
    """The next connection; raises as `socket.accept`, a BlockingIOError if there is none."""
    if _libc is None:
        connection, _address = sock.accept()
        connection.setblocking(False)
        return connection
    flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    descriptor = _libc.accept4(sock.fileno(), None, None, flags)
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return socket.socket(sock.family, socket.SOCK_STREAM, sock.proto, fileno=descriptor)


def _first_bytes(connection: socket.socket) -> bytes:
    """What has come, which stays there to be read."""
    if _libc is None:
        try:
            return connection.recv(_PEEKED_BYTES, socket.MSG_PEEK)
        except OSError:
            return b""
    buffer = ctypes.create_string_buffer(_PEEKED_BYTES)
    flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
    num_bytes = _libc.recv(connection.fileno(), buffer, _PEEKED_BYTES, flags)
    return buffer.raw[: max(0, num_bytes)]


def _reason(error: OSError) -> str:
    # asyncio and socket put whole sentences into strerror.
    return (os.strerror(error.errno) if error.errno else str(error)).lower()
