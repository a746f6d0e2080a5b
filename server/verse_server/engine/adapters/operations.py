"""Adapters as an operator sees them: what is where, load, unload, probe. Any thread but mlx's.

A probe compares two next-token distributions after one prompt; only that runs on the engine thread.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import mlx.core as mx
import msgspec

from verse.model_spelling import AdapterPart, ModelSpellingError, parse_model
from verse_server.engine.adapters.registry import AdapterRegistry
from verse_server.engine.errors import (
    GenerationFailedError,
    InvalidRequestError,
    ModelNotFoundError,
)
from verse_server.engine.state import EngineResources
from verse_server.engine.text import TokenTexts
from verse_server.engine.types import (
    AdapterInfo,
    AdapterProbe,
    ResidentVersion,
    Target,
    TokenLogprob,
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
        part, registry = _one_adapter(name), self._registry

        def show() -> bool:
            if path is not None:
                registry.check_path(part.name, path)
            return registry.show(part.name)

        was_hidden = await registry.ask(show)
        try:
            version = await registry.find_version(part)
            wanted = WeightedAdapter(name=version.name, digest=version.digest)
            await self._run(lambda resources: _bring_in(resources, wanted), (version.digest,))
        except BaseException:
            if was_hidden:
                registry.hide_again(part.name)
            raise
        return await registry.ask(lambda: self._folder(part.name))

    async def unload(self, name: str) -> AdapterInfo:
        """See `interface.Adapters`."""
        part = _one_adapter(name)
        if part.checkpoint is not None:
            raise InvalidRequestError(
                f"A checkpoint is not unloaded alone; unload {part.name!r}.", param="lora_name"
            )
        await self._registry.ask(lambda: self._registry.hide(part.name))
        digests = [v.digest for v in self._resident().get(name, ())]
        await self._run(lambda resources: resources.residency.drop(digests))
        return await self._registry.ask(lambda: self._folder(name))

    async def probe(self, target: Target, prompt: Sequence[int]) -> AdapterProbe:
        """See `interface.Adapters`."""
        digests = tuple(part.digest for part in target.parts)
        return await self._run(lambda resources: probe(resources, target, prompt), digests)

    async def _run(
        self, action: Callable[[EngineResources], T], digests: tuple[str, ...] = ()
    ) -> T:
        return await asyncio.wrap_future(self._worker.run(action, digests))

    def _folder(self, name: str) -> AdapterInfo:
        return _with_residents(self._registry.folder(name), self._resident())

    def _resident(self) -> dict[str, tuple[ResidentVersion, ...]]:
        """What is in the slots, by folder."""
        found: dict[str, tuple[ResidentVersion, ...]] = {}
        for digest, slot, pins in self._worker.placements:
            version = self._registry.by_digest(digest)
            resident = ResidentVersion(id=version.name, digest=digest, slot=slot, pins=pins)
            found[version.adapter] = (*found.get(version.adapter, ()), resident)
        return found


def _bring_in(resources: EngineResources, adapter: WeightedAdapter) -> None:
    resources.residency.pin([adapter])
    resources.residency.unpin([adapter])


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


_MAX_TOKENS = 2048
"""Running rows wait while a probe is computed."""
_NUM_TOP = 5


def probe(resources: EngineResources, target: Target, prompt: Sequence[int]) -> AdapterProbe:
    """Compare what the target and the base would write next.

    Raises:
        InvalidRequestError: there is no adapter to measure, or the prompt is long.
        GenerationFailedError: the numbers overflow.
        EngineError: as `AdapterResidency.pin`.
    """
    if not target.parts:
        raise InvalidRequestError("The base has no update to measure; name an adapter.")
    if len(prompt) > _MAX_TOKENS:
        raise InvalidRequestError(
            f"A probe reads at most {_MAX_TOKENS} tokens, and this prompt has {len(prompt)}; "
            "shorten it.",
            param="prompt",
        )
    slots = resources.residency.pin(target.parts)
    try:
        base, adapted = resources.next_logits([(), slots], prompt)
    finally:
        resources.residency.unpin(target.parts)
    return _comparison(
        base, adapted, TokenTexts(resources.base.tokenizer), target.model, len(prompt)
    )


def _comparison(
    base: mx.array, adapted: mx.array, texts: TokenTexts, model: str, num_tokens: int
) -> AdapterProbe:
    before, after = base - mx.logsumexp(base), adapted - mx.logsumexp(adapted)
    change = mx.abs(adapted - base)
    divergence = mx.sum(mx.exp(after) * (after - before)).item()
    largest, mean = mx.max(change).item(), mx.mean(change).item()
    numbers = [float(cast(float, number)) for number in (divergence, largest, mean)]
    if not all(map(math.isfinite, numbers)):
        raise GenerationFailedError(
            f"The numbers of {model!r} overflow on this prompt; use another adapter or a smaller "
            "strength."
        )
    return AdapterProbe(
        model=model,
        prompt_tokens=num_tokens,
        kl_divergence=max(numbers[0], 0.0),  # rounding may bring a zero below itself
        max_logit_change=numbers[1],
        mean_logit_change=numbers[2],
        top=_likeliest(after, texts),
        base_top=_likeliest(before, texts),
    )


def _likeliest(logprobs: mx.array, texts: TokenTexts) -> tuple[TokenLogprob, ...]:
    ids = cast(list[int], mx.argsort(-logprobs)[:_NUM_TOP].tolist())
    return tuple(texts.logprob(i, float(cast(float, logprobs[i].item()))) for i in ids)
