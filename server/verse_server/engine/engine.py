"""The engine as the HTTP side sees it: names resolved, prompts encoded, rows streamed."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, cast

import msgspec

from verse import UserError
from verse.adapter_digest import base_digest
from verse.base_model import BaseModel
from verse.machines.ranks import Ranks
from verse.model_spelling import BASE, AdapterPart, ModelSpellingError, parse_model
from verse.prompt import (
    OPEN_ANSWER,
    POEM_SYSTEM,
    FrameOptions,
    Message,
    PromptFormat,
    Tool,
    template_knows_tools,
)
from verse_server.config import EngineConfig
from verse_server.engine.adapters.listing import AdapterVersion
from verse_server.engine.adapters.lora import LoraBank
from verse_server.engine.adapters.operations import MlxAdapters
from verse_server.engine.adapters.registry import AdapterRegistry
from verse_server.engine.adapters.residency import AdapterResidency
from verse_server.engine.delivery import Mailbox
from verse_server.engine.encoding import PromptEncoder
from verse_server.engine.errors import (
    AdapterChangedError,
    EngineClosedError,
    EngineError,
    GenerationFailedError,
    InvalidRequestError,
    ModelNotFoundError,
    StartupError,
)
from verse_server.engine.memory import adapter_budget
from verse_server.engine.sampling.grammar import Grammar, Grammars
from verse_server.engine.sequence import EngineRequest
from verse_server.engine.types import (
    BaseInfo,
    EngineStats,
    GenerationChunk,
    GenerationRequest,
    Health,
    ModelInfo,
    ModelPart,
    SamplingParams,
    Target,
    TokenizerInfo,
    WeightedAdapter,
)
from verse_server.engine.worker import Worker

_STALLED_SECONDS = 120.0
"""Work is there and no step has ended for so long."""
_PUBLISH_SECONDS = 3.0
"""How long a request follows an adapter that is being replaced under it."""
_PUBLISH_PAUSE_SECONDS = 0.05
_DEFAULT_NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


class MlxEngine:
    """One resident base and its adapters. Satisfies `interface.Engine`; use `start` to make one."""

    def __init__(
        self, config: EngineConfig, base: BaseModel, worker: Worker, registry: AdapterRegistry
    ) -> None:
        self._config = config
        self._loaded = base
        self._worker = worker
        self._registry = registry
        self._encoder = PromptEncoder(base.hf_tokenizer, base.context_length)
        self._grammars = Grammars(base, self._idle_seconds)
        self.adapters = MlxAdapters(config.adapter_slots, worker, registry)
        self._draining = False
        self._specials = base.hf_tokenizer.get_added_vocab()
        self._info = BaseInfo(
            id=base.id,
            context_length=base.context_length,
            vocab_size=base.vocab_size,
            dtype=str(base.dtype).removeprefix("mlx.core."),
            bytes=base.bytes,
            num_parameters=base.num_parameters,
            weights=base.weights,
            created=int(max(file.stat().st_mtime for file in base.path.glob("model*.safetensors"))),
            sampling=_sampling_defaults(base.generation_config),
            max_tokens=config.max_tokens,
            knows_tools=template_knows_tools(base.hf_tokenizer),
            digest=base_digest(base.path),
        )

    @classmethod
    def start(
        cls,
        config: EngineConfig,
        on_progress: Callable[[float], None] = lambda _share: None,
        ranks: Ranks | None = None,
    ) -> "MlxEngine":
        """Load the base on a new engine thread and wait for it.

        Args:
            config: What to load and to take on.
            on_progress: Told the share of the base that is in memory.
            ranks: All ranks, of which this is the first, if the model is shared.

        Raises:
            StartupError: the model or the adapters folder cannot be used.
        """
        _check_adapters_folder(config)
        worker = Worker(config, ranks)
        registries: list[AdapterRegistry] = []

        def make_residency(bank: LoraBank, base: BaseModel) -> AdapterResidency:
            limits = adapter_budget(config, base, bank.shapes)
            registry = AdapterRegistry(config.adapters, base.id, bank.shapes, limits)
            registries.append(registry)
            return AdapterResidency(config.adapter_slots, bank, registry, limits.max_bytes)

        try:
            base = worker.start(on_progress, make_residency)
        except UserError as error:
            raise StartupError(str(error)) from error
        try:
            return cls(config, base, worker, registries[0])
        except StartupError:
            worker.close()
            raise

    @property
    def base(self) -> BaseInfo:
        """The resident base."""
        return self._info

    @property
    def warnings(self) -> list[str]:
        """One line for each adapter folder that cannot be served, or is served with a doubt."""
        return self._registry.warnings()

    def models(self) -> list[ModelInfo]:
        """See `interface.Engine`."""
        return [self._base_model_info(), *map(self._with_format, self._registry.models())]

    def model(self, name: str) -> ModelInfo:
        """See `interface.Engine`. A blend has the first adapter's prompt, as in `resolve`."""
        if self._is_base(name):
            return self._base_model_info()
        parts = self._parse(name)
        infos = [self._with_format(self._registry.model(part)) for part in parts]
        if len(parts) == 1 and parts[0].strength == 1:
            return infos[0]  # `best` and `last` say which step that is now
        _check_strengths(parts, [self._registry.version(part) for part in parts])
        return _blend_info(name, self._info.id, parts, infos)

    def resolve(self, name: str) -> Target:
        """See `interface.Engine`."""
        if self._is_base(name):
            return self._base_target()
        parts = self._parse(name)
        return self._target_of(name, parts, [self._registry.version(part) for part in parts])

    async def target(self, name: str) -> Target:
        """See `interface.Engine`."""
        if self._is_base(name):
            return self._base_target()
        parts = self._parse(name)
        found = [await self._registry.find_version(part) for part in parts]
        return self._target_of(name, parts, found)

    def _base_target(self) -> Target:
        return Target(model=self._info.id, prompt_format=self._format_of(None))

    def _target_of(
        self, name: str, parts: Sequence[AdapterPart], versions: Sequence[AdapterVersion]
    ) -> Target:
        _check_strengths(parts, versions)
        return Target(
            model=name,
            prompt_format=self._format_of(versions[0].prompt_format),
            parts=tuple(
                WeightedAdapter(name=v.name, digest=v.digest, strength=part.strength)
                for part, v in zip(parts, versions, strict=True)
            ),
        )

    @property
    def tokenizer(self) -> TokenizerInfo:
        """See `interface.Engine`."""
        return _tokenizer_info(self._loaded.hf_tokenizer, self._info)

    def encode(
        self,
        target: Target,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        options: FrameOptions = OPEN_ANSWER,
    ) -> tuple[int, ...]:
        """See `interface.Engine`."""
        return self._encoder.encode(messages, target.prompt_format, tools, options)

    def encode_text(self, text: str, *, add_special_tokens: bool = True) -> tuple[int, ...]:
        """See `interface.Engine`."""
        return self._encoder.encode_text(text, add_special_tokens=add_special_tokens)

    def tokenize(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """See `interface.Engine`."""
        return self._encoder.encode_any(text, add_special_tokens=add_special_tokens)

    def token_names(self, tokens: Sequence[int]) -> list[str]:
        """See `interface.Engine`."""
        names = cast(Any, self._loaded.hf_tokenizer).convert_ids_to_tokens(list(tokens))
        # A row of the embedding that no token uses has no name.
        return [name or "" for name in cast(list[str | None], names)]

    def decode(self, tokens: Sequence[int]) -> str:
        """See `interface.Engine`."""
        return self._loaded.tokenizer.decode(list(tokens))

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """See `interface.Engine`."""
        wanted = request.constraint
        grammar = None if wanted is None else await self._grammars.compile(wanted)
        deadline = time.monotonic() + _PUBLISH_SECONDS
        while True:
            try:
                async with contextlib.aclosing(self._events(request, grammar)) as events:
                    async for chunk in events:
                        yield chunk
                return
            except AdapterChangedError:
                fresh = await self.target(request.target.model)
                is_late = time.monotonic() > deadline
                reframed = request.framed and fresh.prompt_format != request.target.prompt_format
                if is_late or reframed:
                    raise
                await asyncio.sleep(_PUBLISH_PAUSE_SECONDS)
                request = msgspec.structs.replace(request, target=fresh)

    def health(self) -> Health:
        """See `interface.Engine`."""
        worker = self._worker
        busy = worker.num_running + worker.num_waiting > 0
        stalled = busy and time.monotonic() - worker.last_progress > _STALLED_SECONDS
        return Health(
            status="dead"
            if worker.dead
            else "draining"
            if self._draining
            else "stalled"
            if stalled
            else "ok",
            running=worker.num_running,
            waiting=worker.num_waiting,
            resident_adapters=worker.num_resident,
        )

    def stats(self) -> EngineStats:
        """See `interface.Engine`."""
        return self._worker.stats()

    def on_death(self, callback: Callable[[], None]) -> None:
        """Call back, from the engine thread, if it dies."""
        self._worker.on_death(callback)

    def abandon(self, reason: str) -> None:
        """Fail all at once, from any thread: the engine's own may never come back from mlx."""
        self._worker.abandon(GenerationFailedError(reason))

    def drain(self) -> None:
        """Take no new work; what runs goes on."""
        self._draining = True

    def close(self) -> None:
        """End the engine thread; whatever still runs gets an EngineClosedError."""
        self._draining = True
        self._grammars.close()
        self._worker.close()

    async def _events(
        self, request: GenerationRequest, grammar: Grammar | None
    ) -> AsyncGenerator[GenerationChunk, None]:
        if self._draining:
            raise EngineClosedError("The server is shutting down; send the request again.")
        has_ends = request.framed and not request.ignore_eos
        stops = (*(request.target.prompt_format.stop if has_ends else ()), *request.stop)
        mailbox = Mailbox(self._config.slow_client_seconds, lambda: self._worker.cancel(queued))
        queued = EngineRequest(
            asked=request,
            mailbox=mailbox,
            digests=tuple(part.digest for part in request.target.parts),
            stop_tokens=(
                *(self._specials[s] for s in stops if s in self._specials),
                *request.stop_token_ids,
            ),
            # Spelled out in plain characters, a special token is text like any other.
            stop_strings=stops,
            seconds=min(
                self._config.deadline_seconds, request.max_seconds or self._config.deadline_seconds
            ),
            grammar=grammar,
        )
        self._worker.submit(queued)
        left = request.n
        try:
            while left:
                event = await mailbox.get()
                if isinstance(event, EngineError):
                    left = 0
                    raise event
                left -= event.finish_reason is not None
                yield event
        finally:
            if left:
                self._worker.cancel(queued)

    def _idle_seconds(self) -> float:
        worker = self._worker
        is_busy = worker.num_running + worker.num_waiting > 0
        return 0.0 if is_busy else time.monotonic() - worker.last_progress

    def _is_base(self, name: str) -> bool:
        return name in (self._info.id, BASE)

    def _parse(self, name: str) -> tuple[AdapterPart, ...]:
        try:
            return parse_model(name)
        except ModelSpellingError as error:
            raise ModelNotFoundError(name, reason=str(error)) from None

    def _format_of(self, recorded: PromptFormat | None) -> PromptFormat:
        """What the adapter was trained in; the poem prompt where nothing is recorded."""
        if recorded is not None:
            return recorded
        return PromptFormat(system=POEM_SYSTEM if self._config.poem_prompt else None)

    def _with_format(self, info: ModelInfo) -> ModelInfo:
        """What requests get where the adapter has recorded nothing."""
        if info.prompt_format is not None:
            return info
        assumed = self._format_of(None)
        return msgspec.structs.replace(info, prompt_format=assumed.format, system=assumed.system)

    def _base_model_info(self) -> ModelInfo:
        recorded = self._format_of(None)
        return ModelInfo(
            id=self._info.id,
            created=self._info.created,
            root=self._info.id,
            digest=self._info.digest,
            prompt_format=recorded.format,
            system=recorded.system,
        )


def _blend_info(
    name: str, base_id: str, parts: Sequence[AdapterPart], infos: Sequence[ModelInfo]
) -> ModelInfo:
    first = infos[0]
    return ModelInfo(
        id=name,
        created=max(info.created for info in infos),
        parent=base_id,
        root=base_id,
        digest=first.digest if len(infos) == 1 else None,
        prompt_format=first.prompt_format,
        system=first.system,
        report=first.report if len(infos) == 1 else None,
        parts=tuple(
            ModelPart(
                id=part.spelling, strength=part.strength, digest=info.digest, report=info.report
            )
            for part, info in zip(parts, infos, strict=True)
        ),
    )


def _tokenizer_info(hf_tokenizer: Any, base: BaseInfo) -> TokenizerInfo:
    template = hf_tokenizer.chat_template
    return TokenizerInfo(
        tokenizer_class=type(hf_tokenizer).__name__,
        vocab_size=base.vocab_size,
        model_max_length=base.context_length,
        bos_token=hf_tokenizer.bos_token,
        eos_token=hf_tokenizer.eos_token,
        pad_token=hf_tokenizer.pad_token,
        unk_token=hf_tokenizer.unk_token,
        chat_template=template if isinstance(template, str) else None,
    )


def _check_adapters_folder(config: EngineConfig) -> None:
    try:
        next(config.adapters.iterdir(), None)
    except OSError as error:
        raise StartupError(
            f"The adapters folder {config.adapters} cannot be read ({error.strerror}); "
            "create it or name another one with --adapters."
        ) from error


def _check_strengths(parts: Sequence[AdapterPart], versions: Sequence[AdapterVersion]) -> None:
    plain = len(parts) == 1 and parts[0].strength == 1
    dora = next((v.name for v in versions if v.plan.uses_dora), None)
    if dora is not None and not plain:
        raise InvalidRequestError(
            f"{dora!r} is a DoRA adapter, whose update cannot be scaled or blended; "
            "ask for it alone.",
            param="model",
        )


def _sampling_defaults(generation_config: dict[str, Any]) -> SamplingParams:
    """What a request gets that leaves these out, from the base's own config, as in vLLM.

    Raises:
        StartupError: one of them is not what it should be.
    """
    given = {
        n: generation_config[n] for n in _DEFAULT_NAMES if generation_config.get(n) is not None
    }
    if generation_config.get("do_sample") is False:
        given["temperature"] = 0.0
    if given.get("top_k") == -1:
        given["top_k"] = 0
    try:
        params = msgspec.convert(given, SamplingParams)
    except msgspec.ValidationError as error:
        raise StartupError(f"The model's generation_config.json is wrong: {error}.") from error
    shares = all(0 <= share <= 1 for share in (params.top_p, params.min_p))
    if not shares or params.top_k < 0 or params.temperature < 0 or params.repetition_penalty <= 0:
        raise StartupError(f"The model's generation_config.json is out of bounds: {given}.")
    return params
