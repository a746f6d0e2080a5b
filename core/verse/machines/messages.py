"""What ranks say to each other beside their arrays, and the connections it goes over.

    Hello      rank k -> 0    who I am and what I run
    Welcome    0 -> rank k    all are there
    Value      both           a part of what they exchange, see `Ranks`
    GaveUp     rank k -> 0    I cannot go on, in a sentence
    Done       rank k -> 0    I am through
    Closed     0 -> rank k    it is over, for better or worse

Each is MessagePack with its length in front. A connection tells the death of its other end: of a
process at once, of a machine or a network within 8 seconds, by the probes of the kernel. A process
that is only slow stays alive to them, and one in which no Python runs as well.
"""

import socket
import struct
import sys
import threading
from contextlib import suppress

import msgspec

from verse.machines.launch import Address

_LENGTH = struct.Struct("<Q")
_PROBE_SECONDS, _NUM_PROBES = 2, 3
"""After 2 silent seconds, every 2 seconds, 3 unanswered: 8 in all."""
_MAX_HELLO_BYTES = 1 << 16


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """A rank comes."""

    rank: int
    size: int
    facts: dict[str, str]
    """What must be the same on all, such as versions."""


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """All have come."""


class Value(msgspec.Struct, frozen=True, tag="value"):
    """One rank's part of an exchange."""

    data: bytes


class GaveUp(msgspec.Struct, frozen=True, tag="gave_up"):
    """A rank cannot go on."""

    sentence: str


class Done(msgspec.Struct, frozen=True, tag="done"):
    """A rank is through."""


class Closed(msgspec.Struct, frozen=True, tag="closed"):
    """Rank 0 is through, or has told why it is not."""


RankMessage = Hello | Welcome | Value | GaveUp | Done | Closed

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(RankMessage).decode


class Connection:
    """One end of a connection between two ranks; `send` may be called from any thread."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over a connected socket."""
        self._socket = sock
        self._sending = threading.Lock()
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _probe(sock)

    def send(self, message: RankMessage) -> bool:
        """Send; False if nobody is at the other end."""
        data = _encode(message)
        try:
            with self._sending:
                self._socket.sendall(_LENGTH.pack(len(data)) + data)
        except OSError:
            return False
        return True

    def receive(
        self, *, timeout_seconds: float | None = None, limit: int | None = None
    ) -> RankMessage | None:
        """The next message; None if the other end is gone, or said what no rank says.

        Args:
            timeout_seconds: For every part of it; None to wait for as long as the other end lives.
            limit: The most bytes it may have.
        """
        try:
            self._socket.settimeout(timeout_seconds)
            (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
            if limit is not None and length > limit:
                return None
            return _decode(self._read(length))
        except (OSError, EOFError, msgspec.DecodeError):
            return None

    def greeting(self, timeout_seconds: float) -> Hello | GaveUp | None:
        """The first message of whoever connected; None if it is no rank."""
        message = self.receive(timeout_seconds=timeout_seconds, limit=_MAX_HELLO_BYTES)
        return message if isinstance(message, Hello | GaveUp) else None

    def close(self) -> None:
        """Let the other end know at once, and whoever reads here."""
        with suppress(OSError):  # it may be gone already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self, count: int) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            if not (got := self._socket.recv_into(view)):
                raise EOFError
            view = view[got:]
        return data


def _probe(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = socket.TCP_KEEPALIVE if sys.platform == "darwin" else socket.TCP_KEEPIDLE
    sock.setsockopt(socket.IPPROTO_TCP, idle, _PROBE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _NUM_PROBES)
    if sys.platform == "linux":  # the same for what was sent and never acknowledged
        milliseconds = (_NUM_PROBES + 1) * _PROBE_SECONDS * 1000
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def connect(address: Address, timeout_seconds: float) -> Connection:
    """Connect once.

    Raises:
        OSError: nobody listens there, or nothing is reached.
    """
    return Connection(
        socket.create_connection((address.host, address.port), timeout=timeout_seconds)
    )


def listen(address: Address, backlog: int) -> socket.socket:
    """Listen at an address of this machine.

    Raises:
        OSError: the port is in use, or the address is another machine's.
    """
    return socket.create_server((address.host, address.port), backlog=backlog)
