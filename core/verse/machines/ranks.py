"""All ranks of a run: they meet, agree, and notice that one of them is gone.

    launch = find_launch()                # None: an ordinary process, which is its own rank 0 of 1
    with meet(launch, versions(), on_failure=tell) as ranks:
        group = join_group(ranks)         # mlx's, see `joining`
        ranks.agree(digest, "{rank} has another model than rank 0: copy its folder there.")
        ...                               # what all do, in the same order

Whatever goes wrong with one of them ends all of them within ten seconds. What it was is told once,
by rank 0: an error of its own comes out of the `with` as ever; of one of another rank it gets the
sentence, calls `on_failure` with it, from a thread, and ends the process with exit code 2, since
its main thread may wait for ever inside mlx. The others end in silence; `told` says that they need
not speak. Only when rank 0 itself is gone do they call their own `on_failure`.
"""

import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from verse import UserError
from verse.machines import LostRankError, MachinesError
from verse.machines.launch import Launch
from verse.machines.messages import (
    Closed,
    Connection,
    Done,
    GaveUp,
    RankMessage,
    Value,
)

MISTAKE = 2
"""The exit code of a process that ends because another one did."""

_TELL_SECONDS = 5.0
_QUIT_SECONDS = 1.0
_OWN_SECONDS = 1.5
_BLAME_SECONDS = 3.0
"""How long an odd error waits for the news of a dead rank, which is the usual reason for one."""

OnFailure = Callable[[str], None]
Exit = Callable[[int], None]


def say_nothing(_sentence: str) -> None:
    """For who does not care why it ends."""


class Ranks:
    """This rank and its connections to the others: to all of them from rank 0, else to rank 0.

    All ranks must call `agree`, `broadcast` and `gather` in the same order, from one thread each.
    """

    def __init__(
        self,
        launch: Launch | None,
        connections: Mapping[int, Connection],
        *,
        listener: socket.socket | None = None,
        on_failure: OnFailure = say_nothing,
        end: Exit = os._exit,
    ) -> None:
        """Begin to watch; `meet` makes the connections.

        Args:
            launch: None for a process that is alone.
            connections: By the rank at the other end.
            listener: Kept open, so that no second run takes the same ports.
            on_failure: Told why the process ends, from a thread, if nobody else tells the user.
            end: Ends the process.
        """
        self._launch = launch
        self.connections = connections
        """To all others from rank 0, to rank 0 from them."""
        self._listener = listener
        self._on_failure = on_failure
        self._end = end
        self._values: dict[int, queue.SimpleQueue[bytes | None]] = {
            rank: queue.SimpleQueue() for rank in connections
        }
        self._done = {rank: threading.Event() for rank in connections}
        self._leaving = threading.Event()
        self._ending = threading.Lock()
        self.told = False
        """Whether rank 0 has told the user why this one ends."""
        for rank in connections:
            threading.Thread(target=self._watch, args=(rank,), daemon=True).start()

    @classmethod
    def alone(cls) -> "Ranks":
        """A process that is its own rank 0 of one."""
        return cls(None, {})

    @property
    def rank(self) -> int:
        """Of this process."""
        return 0 if self._launch is None else self._launch.rank

    @property
    def size(self) -> int:
        """How many there are."""
        return 1 if self._launch is None else self._launch.size

    @property
    def is_first(self) -> bool:
        """Whether this one writes, prints and answers."""
        return self.rank == 0

    @property
    def launch(self) -> Launch | None:
        """What the launcher said; None in a process that is alone."""
        return self._launch

    def describe(self, rank: int) -> str:
        """For a sentence: `rank 1 (10.0.0.2)`."""
        return f"rank {rank}" if self._launch is None else self._launch.describe(rank)

    def gather(self, data: bytes) -> list[bytes]:
        """Bring what every rank has to rank 0, in the order of ranks; empty on the others."""
        if not self.is_first:
            self.connections[0].send(Value(data))
            return []
        return [data, *(self._next_value(rank) for rank in range(1, self.size))]

    def broadcast(self, data: bytes | None) -> bytes:
        """Give all ranks what rank 0 has; on the others the argument does not count."""
        if not self.is_first:
            return self._next_value(0)
        assert data is not None
        for connection in self.connections.values():
            connection.send(Value(data))
        return data

    def agree(self, value: str, sentence: str) -> None:
        """Make sure that all ranks have the same.

        Args:
            value: What this one has.
            sentence: For the user, with {rank}, its value {theirs} and rank 0's {ours}.

        Raises:
            MachinesError: on rank 0, which ends the others; they never return from here.
        """
        for rank, data in enumerate(self.gather(value.encode())):
            if (theirs := data.decode()) != value:
                named = capitalised(self.describe(rank))
                raise MachinesError(sentence.format(rank=named, theirs=theirs, ours=value))
        self.broadcast(b"")

    def fail(self, sentence: str) -> None:
        """End all ranks, from a thread that is not the main one: that may wait inside mlx."""
        if self.is_first:
            self._fail(sentence)
            return
        self._report(sentence)
        if not self.told:
            self._on_failure(sentence)
        self._end(MISTAKE)

    def quit(self) -> None:
        """This process is about to end on purpose, so that no rank needs to speak of it.

        May be called from a signal handler.
        """
        self._leaving.set()
        last = Closed() if self.is_first else GaveUp("it was asked to stop.")
        # In a thread: a handler may have interrupted the main one while it was sending.
        sender = threading.Thread(target=self._send_all, args=(last,), daemon=True)
        sender.start()
        sender.join(_QUIT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Leave together, or let the others know why not."""
        if self._listener is not None:
            self._listener.close()
        if not self.connections or isinstance(error, LostRankError):
            return
        if error is None:
            self._leave()
            return
        self._wait_for_blame(error)
        if self.is_first:
            with self._ending:
                self._leaving.set()
                self._send_all(Closed())
        else:
            self._report(str(error) if isinstance(error, UserError) else _named(error))

    def _leave(self) -> None:
        if self.is_first:
            for done in self._done.values():
                done.wait()
            self._leaving.set()
            self._send_all(Closed())
        else:
            self._leaving.set()
            self._send_all(Done())
            self._done[0].wait()

    def _report(self, sentence: str) -> None:
        """Let rank 0 tell; it answers once it has."""
        self._leaving.set()
        if self.connections[0].send(GaveUp(sentence)):
            self.told = self._done[0].wait(_TELL_SECONDS)

    def _send_all(self, message: RankMessage) -> None:
        for connection in self.connections.values():
            connection.send(message)

    def _wait_for_blame(self, error: BaseException) -> None:
        """A collective breaks off when a rank dies; the watch knows of it about then, and ends us.

        So an error that is nobody's mistake waits a little before it is taken for one of our own.
        """
        if not isinstance(error, UserError | KeyboardInterrupt | SystemExit):
            time.sleep(_BLAME_SECONDS)

    def _next_value(self, rank: int) -> bytes:
        value = self._values[rank].get()
        if value is None:
            raise LostRankError(f"{capitalised(self.describe(rank))} is gone.")
        return value

    def _watch(self, rank: int) -> None:
        """Read all that one rank sends, until it is through or gone."""
        connection = self.connections[rank]
        while (message := connection.receive()) is not None:
            match message:
                case Value():
                    self._values[rank].put(message.data)
                case Done():
                    self._done[rank].set()
                case Closed():
                    self._closed_by_first()
                    break
                case GaveUp():
                    # What is wrong with all of them, such as a row, is told as rank 0's own.
                    self._leaving.wait(_OWN_SECONDS)
                    self._fail(f"{capitalised(self.describe(rank))}: {message.sentence}")
                    break
                case _:
                    break
        if not self._done[rank].is_set():
            self._fail(
                f"{capitalised(self.describe(rank))} ended without a word: it was killed, its "
                "memory ran out, or its machine or network is gone."
            )
        self._done[rank].set()
        self._values[rank].put(None)
        connection.close()

    def _closed_by_first(self) -> None:
        is_early = not self._leaving.is_set()  # we were not through: it has told why
        self.told = is_early
        self._done[0].set()
        if is_early:
            self._end(MISTAKE)

    def _fail(self, sentence: str) -> None:
        """End this process, and with it all others, for what became of one; once only."""
        with self._ending:
            if self._leaving.is_set():
                return
            self._leaving.set()
            try:
                self._on_failure(sentence)
            finally:
                if self.is_first:
                    self._send_all(Closed())
                self._end(MISTAKE)


def capitalised(text: str) -> str:
    """As the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def _named(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
