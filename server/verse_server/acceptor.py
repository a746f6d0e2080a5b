"""Takes connections from a socket: all at once from the system, and into the server bit by bit.

A flood of connections costs the event loop 0.1 ms each. Begun as they come they would keep running
streams waiting, and `/health` behind them, for a tenth of a second or two. So they wait here, each
no more than an open file, and are begun at a pace: those first whose headers are here, and those
that have sent half of them, or nothing yet, more slowly. One that asks for `/health` is begun at
once.
"""

import asyncio
import logging
import selectors
import socket
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import cast

from verse_server.crowd_selector import CrowdSelector
from verse_server.turns import Pace

_ACCEPTED_AT_ONCE = 64
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
        for _ in range(min(_ACCEPTED_AT_ONCE, self._max_waiting - self._num_waiting)):
            try:
                connection, _address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError as error:  # no files are left
                _log.warning("no connection can be accepted: %s", error.strerror)
                self._pause()
                self._retry = self._loop.call_later(_PAUSE_WITHOUT_FILES_SECONDS, self._on_retry)
                break
            connection.setblocking(False)
            self._waiting[connection] = None
            self._silent.register(connection, selectors.EVENT_READ)
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
            elif b"\r\n\r\n" in begun or len(begun) == _PEEKED_BYTES:
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


def _first_bytes(connection: socket.socket) -> bytes:
    """What has come, which stays there to be read."""
    try:
        return connection.recv(_PEEKED_BYTES, socket.MSG_PEEK)
    except OSError:
        return b""
