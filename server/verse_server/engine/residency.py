"""Adapters in and out of slots: loads what a row needs, evicts what nothing pins.

Engine thread only, but for what says otherwise.
"""

import hashlib
import logging
from collections.abc import Collection, Sequence

from verse.adapter_digest import adapter_digest
from verse.adapter_files import AdapterFileError
from verse_server.engine.adapter_version import AdapterVersion
from verse_server.engine.adapter_weights import load_weights
from verse_server.engine.errors import (
    AdapterChangedError,
    AdapterIncompatibleError,
    EngineError,
    InvalidRequestError,
)
from verse_server.engine.lora import LoraBank, SlotWeights
from verse_server.engine.registry import AdapterRegistry
from verse_server.engine.slots import SlotTable
from verse_server.engine.types import WeightedAdapter

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
