"""Adapters in and out of slots: loads what a row needs, evicts what nothing pins.

An adapter is pinned while it is being loaded and while a row uses it. Only what nothing pins is
evicted, least recently used first. A thread reads and hashes a file; the engine's thread then takes
one module after another, between two steps. Engine thread only, but for what says otherwise.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

from verse.adapter_files import AdapterFileError
from verse_server.engine.adapters.limits import megabytes
from verse_server.engine.adapters.listing import AdapterVersion
from verse_server.engine.adapters.lora import LoraBank, SlotWeights
from verse_server.engine.adapters.registry import AdapterRegistry
from verse_server.engine.adapters.version_reading import WeightsReader
from verse_server.engine.adapters.weights import AdapterReader
from verse_server.engine.errors import (
    AdapterChangedError,
    AdapterIncompatibleError,
    EngineError,
    InvalidRequestError,
)
from verse_server.engine.types import WeightedAdapter


class SlotTable:
    """A fixed number of slots, and of bytes, shared by any number of adapter versions."""

    def __init__(self, num_slots: int, max_bytes: int | None = None) -> None:
        self._num_slots = num_slots
        self._max_bytes = max_bytes
        self._bytes: dict[str, int] = {}
        self._slots: dict[str, int] = {}  # digest -> slot, least recently used first
        self._pins: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, digest: str) -> bool:
        return digest in self._slots

    @property
    def num_pinned(self) -> int:
        """Adapters that a row uses now."""
        return len(self._pins)

    def placements(self) -> list[tuple[str, int, int]]:
        """(digest, slot, pins) of every resident adapter. Any thread may ask."""
        pins = self._pins.copy()
        return [(digest, slot, pins.get(digest, 0)) for digest, slot in self._slots.copy().items()]

    def slot_of(self, digest: str) -> int:
        """The slot of a resident adapter."""
        return self._slots[digest]

    @property
    def num_bytes(self) -> int:
        """Of all resident adapters."""
        return sum(tuple(self._bytes.values()))

    def can_pin(
        self, digests: Collection[str], bytes_of: Callable[[str], int] = lambda _: 0
    ) -> bool:
        """Whether all of these could be resident together with everything pinned now."""
        together = self._pins.keys() | set(digests)
        if len(together) > self._num_slots:
            return False
        if self._max_bytes is None:
            return True
        return sum(self._bytes.get(d) or bytes_of(d) for d in together) <= self._max_bytes

    def touch(self, digest: str) -> None:
        """Count as used just now."""
        self._slots[digest] = self._slots.pop(digest)

    def make_room(self, num_bytes: int) -> list[tuple[str, int]]:
        """Evict what nothing pins until so many bytes fit; (digest, slot) of each."""
        evicted: list[tuple[str, int]] = []
        while self._max_bytes is not None and self.num_bytes + num_bytes > self._max_bytes:
            digest = next((d for d in self._slots if d not in self._pins), None)
            if digest is None:
                break
            evicted.append((digest, self._slots[digest]))
            self.forget(digest)
        return evicted

    def pin(self, digest: str, num_bytes: int = 0) -> tuple[int, str | None] | None:
        """Pin an adapter, giving it a slot if it has none.

        Returns:
            None if it was resident; else the slot to load it into and the version evicted from it.

        Raises:
            LookupError: everything is pinned; ask `can_pin` first.
        """
        placement = None
        if digest not in self._slots:
            placement = self._place(digest)
            self._bytes[digest] = num_bytes
        self.touch(digest)
        self._pins[digest] = self._pins.get(digest, 0) + 1
        return placement

    def unpin(self, digest: str) -> None:
        """Take one pin back."""
        if self._pins[digest] == 1:
            del self._pins[digest]
        else:
            self._pins[digest] -= 1

    def forget(self, digest: str) -> None:
        """Free the slot of an adapter that could not be loaded."""
        self._pins.pop(digest, None)
        self._slots.pop(digest, None)
        self._bytes.pop(digest, None)

    def _place(self, digest: str) -> tuple[int, str | None]:
        taken = set(self._slots.values())
        free = next((slot for slot in range(self._num_slots) if slot not in taken), None)
        if free is not None:
            self._slots[digest] = free
            return free, None
        evicted = next((d for d in self._slots if d not in self._pins), None)
        if evicted is None:
            raise LookupError("every slot is pinned")
        self._slots[digest] = self._slots.pop(evicted)
        self._bytes.pop(evicted, None)
        return self._slots[digest], evicted


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
        bank.load_module(self.slot, module, self._reader)
        self.num_taken += 1
        return not self._left


_log = logging.getLogger(__name__)

_MAX_LOADS = 4
"""On their way at once: each holds a whole file in memory."""


class AdapterResidency:
    """The adapters that are in memory now, and those on their way there."""

    def __init__(
        self,
        num_slots: int,
        bank: LoraBank,
        registry: AdapterRegistry,
        max_bytes: int | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        """For all of them together; None does not count."""
        self.on_read: Callable[[], None] = lambda: None
        """Called from another thread when there is something for `load` to do."""
        self._num_slots = num_slots
        self._table = SlotTable(num_slots, max_bytes)
        self._bank = bank
        self._registry = registry
        self._files = WeightsReader()
        self._loads: list[AdapterLoad] = []
        self._failures: dict[str, EngineError] = {}
        self.num_loads = 0
        """Adapter versions read into a slot so far."""
        self.num_evictions = 0
        """Versions that had to leave a slot for another one."""

    @property
    def num_resident(self) -> int:
        """Adapters in slots."""
        return len(self._table) - len(self._loads)

    @property
    def num_bytes(self) -> int:
        """What they take."""
        return self._table.num_bytes

    @property
    def placements(self) -> list[tuple[str, int, int]]:
        """(digest, slot, pins) of every resident adapter. Any thread may ask."""
        loading = {load.version.digest for load in tuple(self._loads)}
        return [found for found in self._table.placements() if found[0] not in loading]

    @property
    def has_work(self) -> bool:
        """Whether `load` has anything to do now."""
        return any(load.data.done() for load in self._loads)

    @property
    def has_failures(self) -> bool:
        """Whether a load has just failed; whoever waits for it is to be told."""
        return bool(self._failures)

    def drop(self, digests: Collection[str]) -> None:
        """Empty the slots of these; one that a row uses stays until it is evicted."""
        for digest, slot, num_pins in self._table.placements():
            if digest in digests and not num_pins:
                self._table.forget(digest)
                self._bank.clear(slot)

    def prepare(self, digests: Collection[str]) -> bool:
        """Whether `pin` would answer now. Begins to load what is missing, if there is room for it.

        True also for what can never run, so that `pin` says so.
        """
        wanted = set(digests)
        if self._refusal(wanted) is not None:
            return True
        missing = [digest for digest in digests if digest not in self._table]
        if not missing:
            return not self.is_loading(wanted)
        too_many = self._loads and len(self._loads) + len(missing) > _MAX_LOADS
        if too_many or not self._table.can_pin(wanted, self._bytes_of):
            return False
        for digest in wanted.difference(missing):
            self._table.touch(digest)  # what this one needs is not evicted for it
        for digest in dict.fromkeys(missing):
            self._begin(digest)
        return self._refusal(wanted) is not None

    def is_loading(self, digests: Collection[str]) -> bool:
        """Whether one of these is on its way, so that waiting for it holds nobody up."""
        return any(load.version.digest in digests for load in self._loads)

    def load(self, seconds: float) -> None:
        """Go on with what has been read, for about so long: a module is never cut, 0 is for none.

        A failure is remembered until the next call: all who wait for it are told by `pin`.
        """
        self._failures.clear()
        end = time.monotonic() + seconds
        while seconds and (ready := [load for load in self._loads if load.data.done()]):
            load = min(ready, key=lambda load: load.num_taken)  # they take turns
            if self._step(load):
                self._loads.remove(load)
            if time.monotonic() >= end:
                return

    def pin(self, parts: Sequence[WeightedAdapter]) -> SlotWeights:
        """Keep these adapters resident until `unpin`. To be called when `prepare` has said so.

        Raises:
            AdapterIncompatibleError: one cannot be loaded; none stays pinned.
            AdapterChangedError: the files of one are no longer those that were asked for.
            InvalidRequestError: there are more of them than there is room for.
        """
        refusal = self._refusal({part.digest for part in parts})
        if refusal is not None:
            raise refusal
        for part in parts:
            self._table.pin(part.digest)
        return tuple((self._table.slot_of(part.digest), part.strength) for part in parts)

    def unpin(self, parts: Sequence[WeightedAdapter]) -> None:
        """Take the pins of one row back."""
        for part in parts:
            self._table.unpin(part.digest)

    def _refusal(self, wanted: Collection[str]) -> EngineError | None:
        """Why these can never be pinned together."""
        failure = next((self._failures[d] for d in wanted if d in self._failures), None)
        if failure is not None:
            return failure
        if len(wanted) > self._num_slots:
            return InvalidRequestError(
                f"The blend has more adapters than the server has slots ({self._num_slots}).",
                param="model",
            )
        num_bytes = sum(map(self._bytes_of, wanted)) if len(wanted) > 1 else 0
        if self.max_bytes is not None and num_bytes > self.max_bytes:
            return InvalidRequestError(
                f"The adapters of the blend take {megabytes(num_bytes)} of memory and all adapters "
                f"together may have {megabytes(self.max_bytes)}; blend fewer or smaller ones.",
                param="model",
            )
        return None

    def _bytes_of(self, digest: str) -> int:
        with suppress(KeyError):
            return self._registry.by_digest(digest).memory_bytes
        return 0

    def _begin(self, digest: str) -> None:
        try:
            version = self._registry.by_digest(digest)
        except KeyError:  # so many have been asked for since
            self._failures[digest] = AdapterChangedError(digest[:8])
            return
        for evicted, slot in self._table.make_room(version.memory_bytes):
            self._bank.clear(slot)
            self.num_evictions += 1
            _log.debug("evicted %s", evicted[:8])
        placement = self._table.pin(digest, version.memory_bytes)
        assert placement is not None
        slot, evicted = placement
        self.num_evictions += evicted is not None
        self._bank.clear(slot)
        self._loads.append(AdapterLoad(version, slot, self._files.read(version, self._on_read)))

    def _on_read(self) -> None:
        self.on_read()

    def _step(self, load: AdapterLoad) -> bool:
        """One module; whether the load has come to an end."""
        try:
            if not load.step(self._bank):
                return False
        except Exception as error:  # noqa: BLE001  (it concerns those who asked for this one)
            self._fail(load, error)
            return True
        self._table.unpin(load.version.digest)
        self.num_loads += 1
        self._registry.record_load(load.version.digest, load.delta_norm)
        _log_load(load)
        return True

    def _fail(self, load: AdapterLoad, error: Exception) -> None:
        version = load.version
        self._table.forget(version.digest)
        self._bank.clear(load.slot)
        if not isinstance(error, EngineError):
            reason = f"loading it failed: {error}"
            if isinstance(error, AdapterFileError):  # anything else may pass, such as full memory
                self._registry.record_failure(version.digest, reason)
            error = AdapterIncompatibleError(version.name, reason)
        self._failures[version.digest] = error


def _log_load(load: AdapterLoad) -> None:
    plan = load.version.plan
    _log.log(
        logging.INFO if load.delta_norm else logging.WARNING,
        "loaded %s %s: %d modules, rank %d, scale %g, norm of the update %.4g",
        load.version.name,
        load.version.digest[:8],
        len(plan.modules),
        plan.rank,
        plan.scale,
        load.delta_norm,
    )
