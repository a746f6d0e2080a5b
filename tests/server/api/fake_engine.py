"""An engine without a model: it writes given texts, and remembers what it was asked."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Literal

import msgspec

from verse.prompt import OPEN_ANSWER, FrameOptions, Message, PromptFormat, Tool
from verse_server.engine.errors import (
    AdapterIncompatibleError,
    EngineClosedError,
    EngineError,
    GenerationFailedError,
    ModelNotFoundError,
    PromptTooLongError,
)
from verse_server.engine.types import (
    AdapterInfo,
    AdapterProbe,
    BaseInfo,
    CheckpointInfo,
    EngineStats,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Health,
    LoadReport,
    ModelInfo,
    ModelPart,
    ResidentVersion,
    SamplingParams,
    Target,
    TokenizerInfo,
    TokenLogprob,
    TokenText,
    WeightedAdapter,
)

DIGEST = "0123456789abcdef" * 4
POEM = ("轻轻的", "", "我走了", "，")

REPORT = LoadReport(format="mlx-lora", matched=24, rank=8, scale=20.0, bytes=4096, digest=DIGEST)
ADAPTER = ModelInfo(
    id="xuzhimo",
    created=1_700_000_000,
    parent="verse-tiny",
    root="verse-tiny",
    checkpoints=(CheckpointInfo(id="xuzhimo@200", step=200, bytes=4096),),
    digest=DIGEST,
    prompt_format="chat",
    system="写诗",
    report=REPORT,
)
BASE = ModelInfo(id="verse-tiny", created=1_600_000_000, root="verse-tiny")
BLEND = ModelInfo(
    id="xuzhimo:0.5+xuzhimo@200:0.5",
    created=1_700_000_000,
    parent="verse-tiny",
    root="verse-tiny",
    parts=tuple(
        ModelPart(id=name, strength=0.5, digest=DIGEST, report=REPORT)
        for name in ("xuzhimo", "xuzhimo@200")
    ),
)
HUB_BASE = ModelInfo(id="Qwen/Qwen2.5-7B", created=1_600_000_000, root="Qwen/Qwen2.5-7B")


def _logprobs(text: str, num_top: int | None) -> tuple[TokenLogprob, ...]:
    """One token a text, and the same one again as all of the likeliest."""
    if num_top is None or not text:
        return ()
    entry = TokenLogprob(token=text, bytes=tuple(text.encode()), logprob=-0.5)
    return (msgspec.structs.replace(entry, top=(entry,) * num_top),)


def _scored(request: GenerationRequest) -> tuple[TokenText, ...]:
    first, *others = map(chr, request.prompt)
    entries = [
        msgspec.structs.replace(
            _logprobs(text, request.num_prompt_logprobs)[0], id=ord(text), rank=1
        )
        for text in others
    ]
    return (TokenText(token=first, bytes=tuple(first.encode()), id=ord(first)), *entries)


class FakeAdapters:
    """Satisfies `engine.interface.Adapters`: one that can be served, and one that cannot."""

    num_slots = 4

    def __init__(self) -> None:
        self.state: Literal["resident", "on_disk", "unloaded"] = "on_disk"
        self.paths: list[str | None] = []

    def list(self) -> list[AdapterInfo]:
        slot = ResidentVersion(id="xuzhimo", digest=DIGEST, slot=0, pins=1)
        error = "The adapter 'broken' cannot be served: the weights file is truncated."
        return [
            AdapterInfo(id="broken", state="refused", error=error, unmatched=("layers.9.mlp",)),
            AdapterInfo(
                id="xuzhimo",
                state=self.state,
                digest=DIGEST,
                resident=(slot,) if self.state == "resident" else (),
                report=REPORT,
            ),
        ]

    async def load(self, name: str, path: str | None) -> AdapterInfo:
        if name == "broken":
            raise AdapterIncompatibleError("broken", "the weights file is truncated.")
        self.paths.append(path)
        return self._become(name, "resident")

    async def unload(self, name: str) -> AdapterInfo:
        return self._become(name, "unloaded")

    async def probe(self, target: Target, prompt: Sequence[int]) -> AdapterProbe:
        river = TokenLogprob(token="河", bytes=tuple("河".encode()), logprob=-0.5)
        return AdapterProbe(
            model=target.model,
            prompt_tokens=len(prompt),
            kl_divergence=0.5,
            max_logit_change=4.0,
            mean_logit_change=0.25,
            top=(river,),
            base_top=(river,),
        )

    def _become(self, name: str, state: Literal["resident", "unloaded"]) -> AdapterInfo:
        if name != "xuzhimo":
            raise ModelNotFoundError(name)
        self.state = state
        return self.list()[1]


class FakeEngine:
    """Satisfies `engine.interface.Engine` and the life cycle that `serving` asks for."""

    def __init__(
        self,
        texts: Sequence[str] = POEM,
        *,
        finish_reason: FinishReason | None = "stop",
        seconds_per_chunk: float = 0.0,
        first_error: Exception | None = None,
        late_error: Exception | None = None,
        sampling: SamplingParams | None = None,
        context_length: int = 64,
        hangs: bool = False,
        knows_tools: bool = False,
    ) -> None:
        self.texts = tuple(texts)
        self.finish_reason: FinishReason | None = finish_reason
        self.seconds_per_chunk = seconds_per_chunk
        self.first_error = first_error
        self.late_error = late_error
        self.base = BaseInfo(
            id="verse-tiny",
            context_length=context_length,
            vocab_size=8192,
            dtype="float32",
            bytes=40_000_000,
            created=BASE.created,
            sampling=sampling or SamplingParams(),
            knows_tools=knows_tools,
        )
        self.adapters = FakeAdapters()
        self.warnings = ["broken: the weights file is truncated"]
        self.requests: list[GenerationRequest] = []
        self.encoded: list[Message] = []
        self.shown_tools: Sequence[Tool] | None = None
        self.options = OPEN_ANSWER
        self.num_running = 0
        self.num_closed_early = 0
        self.hangs = hangs
        self.draining = False
        self.failure: EngineError | None = None
        self.health_override: Health | None = None
        self._on_death: Callable[[], None] = lambda: None

    def models(self) -> list[ModelInfo]:
        return [BASE, ADAPTER]

    def model(self, name: str) -> ModelInfo:
        if name == "broken":
            raise AdapterIncompatibleError("broken", "the weights file is truncated.")
        known = {m.id: m for m in (BASE, ADAPTER, HUB_BASE)} | {
            "base": BASE,
            "xuzhimo@200": ADAPTER,
            BLEND.id: BLEND,
        }
        if name not in known:
            raise ModelNotFoundError(name, nearest=["xuzhimo"])
        return known[name]

    def resolve(self, name: str) -> Target:
        info = self.model(name)
        if info.digest is None:
            return Target(model=info.id, prompt_format=PromptFormat())
        part = WeightedAdapter(name=name, digest=info.digest)
        return Target(model=name, prompt_format=PromptFormat(), parts=(part,))

    async def target(self, name: str) -> Target:
        return self.resolve(name)

    def encode(
        self,
        target: Target,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        options: FrameOptions = OPEN_ANSWER,
    ) -> tuple[int, ...]:
        self.encoded = list(messages)
        self.shown_tools, self.options = tools, options
        ids = tuple(ord(char) for message in messages for char in message.content)
        if len(ids) >= self.base.context_length:
            raise PromptTooLongError(len(ids), self.base.context_length)
        return ids or (0,)

    def encode_text(self, text: str, *, add_special_tokens: bool = True) -> tuple[int, ...]:
        return tuple(ord(char) % self.base.vocab_size for char in text)

    @property
    def tokenizer(self) -> TokenizerInfo:
        return TokenizerInfo(
            tokenizer_class="FakeTokenizer",
            vocab_size=self.base.vocab_size,
            model_max_length=self.base.context_length,
            eos_token="<end>",
            chat_template="{{ messages }}",
        )

    def tokenize(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        ids = self.encode_text(text)
        return (1, *ids) if add_special_tokens else ids

    def token_names(self, tokens: Sequence[int]) -> list[str]:
        return [f"<{token}>" for token in tokens]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(f"<{token}>" for token in tokens)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        if self.draining:
            raise EngineClosedError("The server is shutting down; send the request again.")
        if self.first_error is not None:
            raise self.first_error
        self.requests.append(request)
        self.num_running += 1
        finished = False
        texts = self.texts if request.max_tokens else ()
        try:
            if request.score_prompt or not request.max_tokens:
                finished = not texts
                for answer in range(request.n):
                    yield GenerationChunk(
                        index=answer,
                        text="",
                        target=request.target,
                        completion_tokens=0,
                        scored_prompt=_scored(request) if request.score_prompt else (),
                        finish_reason="length" if finished else None,
                    )
            for index, text in enumerate(texts):
                await self._step()
                last = index == len(texts) - 1
                finished = last
                for answer in range(request.n):
                    yield GenerationChunk(
                        index=answer,
                        text=text,
                        target=request.target,
                        completion_tokens=index + 1,
                        token_ids=(100 + index,),
                        cached_tokens=1,
                        logprobs=_logprobs(text, request.num_top_logprobs),
                        finish_reason=self.finish_reason
                        if last and self.late_error is None
                        else None,
                    )
            if self.late_error is not None:
                raise self.late_error
        finally:
            self.num_running -= 1
            self.num_closed_early += not finished

    async def _step(self) -> None:
        until = asyncio.get_running_loop().time() + self.seconds_per_chunk
        while True:
            if self.failure is not None:
                raise self.failure
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await asyncio.sleep(min(left, 0.01))

    def health(self) -> Health:
        if self.health_override is not None:
            return self.health_override
        return Health(
            status="draining" if self.draining else "ok",
            running=self.num_running,
            waiting=0,
            resident_adapters=1,
        )

    def stats(self) -> EngineStats:
        return EngineStats(
            adapter_loads=3,
            adapter_evictions=1,
            prefix_cache_bytes=1000,
            memory_bytes=40_000_000,
            peak_memory_bytes=50_000_000,
        )

    def drain(self) -> None:
        self.draining = True

    def close(self) -> None:
        self.draining = True
        while self.hangs:
            time.sleep(1)
        self.failure = EngineClosedError("The server has stopped; send the request again.")

    def on_death(self, callback: Callable[[], None]) -> None:
        self._on_death = callback

    def die(self) -> None:
        """As the real one: from another thread, requests first."""
        self.failure = GenerationFailedError("The engine broke.")
        self.health_override = Health(status="dead", running=0, waiting=0, resident_adapters=0)
        self._on_death()
