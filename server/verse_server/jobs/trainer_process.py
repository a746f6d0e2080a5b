"""The process that trains, as this side sees it: `verse_trainer.child`, asked and heard in JSON.

It runs at the lowest priority with few threads, so that it takes what running streams leave. When
this server dies, its input ends: it saves and stops by itself. It holds a lock from its first
moment to its last, so a server that comes after can wait until it is really gone.
"""

import asyncio
import fcntl
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from verse.adapter_folder import checkpoints_in

_COMMAND = (sys.executable, "-m", "verse_trainer.child")
_NICE = 10
"""At 19 a job beside two busy programs would get a sixtieth of a core, and not end in a day."""
_LINE_BYTES = 4 << 20
STOP_SECONDS = 60.0
"""How long saving may take after it was asked to stop; a step of a large base comes before."""
_ORPHAN_POLL_SECONDS = 0.1


class MemoryFigures(msgspec.Struct, frozen=True):
    """The trainer's estimate of its peak, by parts, in bytes."""

    weights_bytes: int = 0
    adapter_bytes: int = 0
    activations_bytes: int = 0
    logits_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of them."""
        return sum(msgspec.structs.astuple(self))


class TrainerMessage(msgspec.Struct, frozen=True):
    """A line of the trainer's output: of each kind, the fields that matter here."""

    event: str
    step: int = 0
    train_loss: float | None = None
    valid_loss: float | None = None
    learning_rate: float | None = None
    trained_tokens: int = 0
    eta_seconds: float = 0.0
    steps: int = 0
    epochs: float = 0.0
    start_step: int = 0
    theme: str = ""
    text: str = ""
    reason: str = ""
    best_step: int | None = None
    sentence: str = ""
    about: Literal["data", "config", "run"] = "run"
    num_rows: int = 0
    longest_row_tokens: int = 0
    memory_estimate: MemoryFigures | None = None
    notes: tuple[str, ...] = ()


_decode = msgspec.json.Decoder(TrainerMessage).decode


class TrainerProcess:
    """One process; `messages` runs it to its end."""

    def __init__(
        self,
        request: Mapping[str, Any],
        log: Path,
        lock: Path,
        *,
        command: Sequence[str] | None = None,
    ) -> None:
        """Say what to do; nothing is started yet.

        Args:
            request: The trainer's `TrainRequest`.
            log: What it prints besides goes to the end of this file.
            lock: Held while the process lives.
            command: The program to start; the trainer's unless told otherwise.
        """
        self._command = command or _COMMAND
        self._request = request
        self._log = log
        self._lock = lock
        self._process: asyncio.subprocess.Process | None = None
        self._is_asked_to_stop = False

    @property
    def exit_code(self) -> int | None:
        """Negative: the signal that ended it; None while it runs."""
        return None if self._process is None else self._process.returncode

    async def messages(self) -> AsyncGenerator[TrainerMessage, None]:
        """Start it and yield what it reports until it has ended."""
        handle = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with self._log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=(handle,),
                    env=_environment(),
                    limit=_LINE_BYTES,
                )
            os.ftruncate(handle, 0)
            os.write(handle, str(self._process.pid).encode())
        finally:
            os.close(handle)  # the process has its own
        process = self._process
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICE)
        if self._is_asked_to_stop:
            self.stop()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(msgspec.json.encode(self._request) + b"\n")
            with suppress(ConnectionError):  # it died at once; its exit code tells
                await process.stdin.drain()
            async for line in process.stdout:
                yield _decode(line)
            await process.wait()
        finally:
            await self._end(process)

    def stop(self) -> None:
        """Ask it to save and end."""
        self._is_asked_to_stop = True
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Whoever listened has stopped: let it save, and do not wait for ever."""
        if process.returncode is not None:
            return
        self.stop()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                assert process.stdout is not None
                while await process.stdout.read(_LINE_BYTES):
                    pass  # a full pipe would keep it from ending
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _environment() -> dict[str, str]:
    """Half the cores at most; a thread that spins on a core that a stream needs slows both down."""
    num_threads = max(1, len(_cores()) // 2)
    bounds = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), str(num_threads))
    return {**os.environ, **bounds}


def _cores() -> range:
    return range(os.cpu_count() or 1)


def written_messages(folder: Path) -> list[TrainerMessage]:
    """What an adapter's folder tells of its training: losses and poems, then checkpoints."""
    messages: list[TrainerMessage] = []
    if not folder.is_dir():
        return messages
    for name in ("metrics.jsonl", "samples.jsonl"):
        with suppress(FileNotFoundError):
            for line in (folder / name).read_bytes().splitlines():
                with suppress(msgspec.DecodeError):  # cut off by a kill
                    messages.append(_decode(line))
    kept = [message for message in messages if message.event in ("train", "valid", "sample")]
    return [*kept, *(TrainerMessage("saved", step=step) for step in checkpoints_in(folder))]


async def wait_for_orphan(lock: Path) -> None:
    """Wait until a process that an earlier server started is gone; after a while, make it go.

    It has noticed that its server is dead and is saving what it has.
    """
    until = time.monotonic() + STOP_SECONDS
    while (pid := _holder(lock)) is not None:
        if pid and time.monotonic() > until:
            # It still holds the lock, so the number is its own and no other process's.
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(_ORPHAN_POLL_SECONDS)


def _holder(lock: Path) -> int | None:
    """The process that holds the lock, if one does; 0 if it was started this moment."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.read(handle, 32) or b"0")
    else:
        return None
    finally:
        os.close(handle)
