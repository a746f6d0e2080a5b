"""Adapters as an operator sees them: what is where, load, unload, probe. Any thread but mlx's."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from verse.model_spelling import AdapterPart, ModelSpellingError, parse_model
from verse_server.engine.errand import Owned
from verse_server.engine.errors import InvalidRequestError, ModelNotFoundError
from verse_server.engine.probe import probe
from verse_server.engine.registry import AdapterRegistry
from verse_server.engine.types import (
    AdapterInfo,
    AdapterProbe,
    ResidentVersion,
    Target,
    WeightedAdapter,
)
from verse_server.engine.worker import Worker

T = TypeVar("T")


class MlxAdapters:
    """Satisfies `interface.Adapters`."""

    def __init__(self, num_slots: int, worker: Worker, registry: AdapterRegistry) -> None:
        self.num_slots = num_slots
        self._worker = worker
        self._registry = registry

    def list(self) -> list[AdapterInfo]:
        """See `interface.Adapters`."""
        resident = self._resident()
        return [_with_residents(info, resident) for info in self._registry.folders()]

    async def load(self, name: str, path: str | None) -> AdapterInfo:
        """See `interface.Adapters`."""
        part = _one_adapter(name)
        if path is not None:
            self._registry.check_path(part.name, path)
        was_hidden = self._registry.show(part.name)
        try:
            version = await asyncio.to_thread(self._registry.version, part)
            wanted = WeightedAdapter(name=version.name, digest=version.digest)
            await self._run(lambda owned: _bring_in(owned, wanted), (version.digest,))
        except BaseException:
            if was_hidden:
                self._registry.hide(part.name)
            raise
        return await self._info(part.name)

    async def unload(self, name: str) -> AdapterInfo:
        """See `interface.Adapters`."""
        part = _one_adapter(name)
        if part.checkpoint is not None:
            raise InvalidRequestError(
                f"A checkpoint is not unloaded alone; unload {part.name!r}.", param="lora_name"
            )
        self._registry.hide(part.name)
        digests = [v.digest for v in self._resident().get(name, ())]
        await self._run(lambda owned: owned.residency.drop(digests))
        return await self._info(name)

    async def probe(self, target: Target, prompt: Sequence[int]) -> AdapterProbe:
        """See `interface.Adapters`."""
        digests = tuple(part.digest for part in target.parts)
        return await self._run(lambda owned: probe(owned, target, prompt), digests)

    async def _run(self, action: Callable[[Owned], T], digests: tuple[str, ...] = ()) -> T:
        return await asyncio.wrap_future(self._worker.run(action, digests))

    async def _info(self, name: str) -> AdapterInfo:
        infos = await asyncio.to_thread(self.list)
        return next(info for info in infos if info.id == name)

    def _resident(self) -> dict[str, tuple[ResidentVersion, ...]]:
        """What is in the slots, by folder."""
        found: dict[str, tuple[ResidentVersion, ...]] = {}
        for digest, slot, pins in self._worker.placements:
            version = self._registry.by_digest(digest)
            resident = ResidentVersion(id=version.name, digest=digest, slot=slot, pins=pins)
            found[version.adapter] = (*found.get(version.adapter, ()), resident)
        return found


def _bring_in(owned: Owned, adapter: WeightedAdapter) -> None:
    owned.residency.pin([adapter])
    owned.residency.unpin([adapter])


def _with_residents(
    info: AdapterInfo, resident: dict[str, tuple[ResidentVersion, ...]]
) -> AdapterInfo:
    versions = resident.get(info.id, ())
    state = "resident" if versions and info.state == "on_disk" else info.state
    return msgspec.structs.replace(info, resident=versions, state=state)


def _one_adapter(name: str) -> AdapterPart:
    """The only part of a spelling without strength or blend."""
    try:
        parts = parse_model(name)
    except ModelSpellingError as error:
        raise ModelNotFoundError(name, reason=str(error)) from None
    match parts:
        case (AdapterPart(strength=1.0) as part,):
            return part
        case _:
            raise InvalidRequestError(
                f"{name!r} is more than one name; load and unload adapters one by one.",
                param="lora_name",
            )
