"""An adapter on its way from the disk into a slot, in pieces.

A thread reads and hashes the file; the engine's thread then takes one module after another, between
two steps. Several adapters on their way take turns, so a small one does not wait for a large one.
"""

import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from verse.adapter_digest import adapter_digest
from verse_server.engine.adapters.listing import AdapterVersion
from verse_server.engine.adapters.lora import LoraBank
from verse_server.engine.adapters.version_reading import background_threads
from verse_server.engine.adapters.weights import AdapterReader
from verse_server.engine.errors import AdapterChangedError

_NUM_READERS = 2
_READ_BYTES = 1 << 20


def read_weights(version: AdapterVersion) -> memoryview:
    """The whole file, in memory that no other hand can change.

    Raises:
        AdapterChangedError: it is not what was asked for any more.
    """
    data = np.empty(version.bytes, np.uint8).data  # not written to before it is read
    digest = hashlib.sha256()
    try:
        with version.weights.open("rb") as stream:
            for start in range(0, version.bytes, _READ_BYTES):
                piece = data[start : start + _READ_BYTES]
                if stream.readinto(piece) != len(piece):
                    raise AdapterChangedError(version.name)
                digest.update(piece)
            is_longer = bool(stream.read(1))
    except OSError as error:
        raise AdapterChangedError(version.name) from error
    if is_longer or adapter_digest(version.folder, digest.digest()) != version.digest:
        raise AdapterChangedError(version.name)
    return data


@dataclass(eq=False)
class AdapterLoad:
    """One version, on its way into a slot that no row uses yet."""

    version: AdapterVersion
    slot: int
    data: "Future[memoryview]"
    num_taken: int = 0
    """Modules that are in the slot."""
    _reader: AdapterReader | None = None
    _left: deque[str] = field(default_factory=deque[str])

    @property
    def delta_norm(self) -> float:
        """Of the modules taken so far."""
        return self._reader.delta_norm if self._reader else 0.0

    def step(self, bank: LoraBank) -> bool:
        """Take one module; whether it was the last one. The file has been read.

        Raises:
            AdapterChangedError: the file is not what was asked for any more.
            AdapterFileError: it cannot be used.
        """
        if self._reader is None:
            plan = self.version.plan
            self._reader = AdapterReader(self.data.result(), plan, bank.linears, bank.dtype)
            self._left.extend(plan.modules)
        module = self._left.popleft()
        bank.write_module(self.slot, module, self._reader.read(module))
        self.num_taken += 1
        return not self._left


class WeightsReader:
    """Reads files for the engine's thread."""

    def __init__(self) -> None:
        self._threads = background_threads(_NUM_READERS, "weights")

    def read(self, version: AdapterVersion, on_read: Callable[[], None]) -> "Future[memoryview]":
        """Begin to read a file; `on_read` is called from another thread at the end."""
        future = self._threads.submit(read_weights, version)
        future.add_done_callback(lambda _: on_read())
        return future
