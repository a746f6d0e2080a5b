"""Adapters in and out of slots: loads what a row needs, evicts what nothing pins.

An adapter is pinned while a row uses it. Only what nothing pins is evicted, least recently used
first. Engine thread only, but for what says otherwise.
"""

import hashlib
import logging
from collections.abc import Collection, Sequence

from verse.adapter_digest import adapter_digest
from verse.adapter_files import AdapterFileError
from verse_server.engine.adapters.listing import AdapterVersion
from verse_server.engine.adapters.lora import LoraBank, SlotWeights, load_weights
from verse_server.engine.adapters.registry import AdapterRegistry
from verse_server.engine.errors import (
    AdapterChangedError,
    AdapterIncompatibleError,
    EngineError,
    InvalidRequestError,
)
from verse_server.engine.types import WeightedAdapter


class SlotTable:
    """A fixed number of slots shared by any number of adapter versions."""

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
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

    def can_pin(self, digests: Collection[str]) -> bool:
        """Whether all of these could be resident together with everything pinned now."""
        return len(self._pins.keys() | set(digests)) <= self._num_slots

    def pin(self, digest: str) -> tuple[int, str | None] | None:
        """Pin an adapter, giving it a slot if it has none.

        Returns:
            None if it was resident; else the slot to load it into and the version evicted from it.

        Raises:
            LookupError: everything is pinned; ask `can_pin` first.
        """
        placement = None if digest in self._slots else self._place(digest)
        self._slots[digest] = self._slots.pop(digest)
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
        return self._slots[digest], evicted


_log = logging.getLogger(__name__)


class AdapterResidency:
    """The adapters that are in memory now."""

    def __init__(self, num_slots: int, bank: LoraBank, registry: AdapterRegistry) -> None:
        self._num_slots = num_slots
        self._table = SlotTable(num_slots)
        self._bank = bank
        self._registry = registry
        self.num_loads = 0
        """Adapter versions read into a slot so far."""
        self.num_evictions = 0
        """Versions that had to leave a slot for another one."""

    @property
    def num_resident(self) -> int:
        """Adapters in slots."""
        return len(self._table)

    @property
    def placements(self) -> list[tuple[str, int, int]]:
        """(digest, slot, pins) of every resident adapter. Any thread may ask."""
        return self._table.placements()

    def drop(self, digests: Collection[str]) -> None:
        """Empty the slots of these; one that a row uses stays until it is evicted."""
        for digest, slot, num_pins in self._table.placements():
            if digest in digests and not num_pins:
                self._table.forget(digest)
                self._bank.clear(slot)

    def can_pin(self, digests: Collection[str]) -> bool:
        """Whether a row of these could run now. True if it never could: `pin` then says so."""
        return len(set(digests)) > self._num_slots or self._table.can_pin(digests)

    def pin(self, parts: Sequence[WeightedAdapter]) -> SlotWeights:
        """Make these adapters resident and keep them so until `unpin`.

        Raises:
            AdapterIncompatibleError: one cannot be loaded; none stays pinned.
            AdapterChangedError: the files of one are no longer those that were asked for.
            InvalidRequestError: there are more of them than slots.
        """
        if len({part.digest for part in parts}) > self._num_slots:
            raise InvalidRequestError(
                f"The blend has more adapters than the server has slots ({self._num_slots}).",
                param="model",
            )
        pinned: list[WeightedAdapter] = []
        try:
            for part in parts:
                self._pin_one(part)
                pinned.append(part)
        except EngineError:
            self.unpin(pinned)
            raise
        return tuple((self._table.slot_of(part.digest), part.strength) for part in parts)

    def unpin(self, parts: Sequence[WeightedAdapter]) -> None:
        """Take the pins of one row back."""
        for part in parts:
            self._table.unpin(part.digest)

    def _pin_one(self, part: WeightedAdapter) -> None:
        placement = self._table.pin(part.digest)
        if placement is None:
            return
        slot, evicted = placement
        self.num_evictions += evicted is not None
        try:
            self._load(slot, self._registry.by_digest(part.digest))
        except Exception as error:
            self._table.forget(part.digest)
            self._bank.clear(slot)
            if isinstance(error, EngineError):
                raise
            reason = f"loading it failed: {error}"
            if isinstance(error, AdapterFileError):  # anything else may pass, such as full memory
                self._registry.record_failure(part.digest, reason)
            raise AdapterIncompatibleError(part.name, reason) from error

    def _load(self, slot: int, version: AdapterVersion) -> None:
        try:
            data = version.weights.read_bytes()
        except OSError as error:
            raise AdapterChangedError(version.name) from error
        if adapter_digest(version.folder, hashlib.sha256(data).digest()) != version.digest:
            raise AdapterChangedError(version.name)
        weights = load_weights(data, version.plan, self._bank.linears, self._bank.dtype)
        self._bank.write(slot, weights)
        self.num_loads += 1
        self._registry.record_load(version.digest, weights.delta_norm)
        _log.log(
            logging.INFO if weights.delta_norm else logging.WARNING,
            "loaded %s %s: %d modules, rank %d, scale %g, norm of the update %.4g",
            version.name,
            version.digest[:8],
            len(weights.modules),
            weights.rank,
            version.plan.scale,
            weights.delta_norm,
        )
