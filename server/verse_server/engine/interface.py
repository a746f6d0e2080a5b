"""The engine's interface: what the HTTP side may ask of it.

No mlx here, as in `types`, whose records cross it.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextvars import ContextVar
from typing import Protocol

from verse.prompt import OPEN_ANSWER, FrameOptions, Message, Tool
from verse_server.engine.types import (
    AdapterInfo,
    AdapterProbe,
    BaseInfo,
    EngineStats,
    GenerationChunk,
    GenerationRequest,
    Health,
    ModelInfo,
    Target,
    TokenizerInfo,
)

still_wanted: ContextVar[Callable[[], bool]] = ContextVar(
    "still_wanted",
    default=lambda: True,
)
"""Asked now and then by work of some length, which ends with a CancelledError when nobody waits."""


class Adapters(Protocol):
    """What can be done with adapters besides asking for them."""

    @property
    def num_slots(self) -> int:
        """How many can be resident at once."""
        ...

    def list(self) -> list[AdapterInfo]:
        """Every folder, by name."""
        ...

    async def load(self, name: str, path: str | None) -> AdapterInfo:
        """Bring an adapter or checkpoint into a slot now, and serve it again if it was unloaded.

        Args:
            name: `xuzhimo` or `xuzhimo@85`.
            path: Where the caller thinks it is; checked, not followed.

        Raises:
            ModelNotFoundError: nothing has this name.
            AdapterIncompatibleError: it is there but cannot be served.
            InvalidRequestError: the path is not its folder, or the name is more than a name.
        """
        ...

    async def unload(self, name: str) -> AdapterInfo:
        """Free its slots and refuse it until it is loaded again; what runs is finished.

        Raises:
            ModelNotFoundError: no folder has this name, or it is unloaded already.
            InvalidRequestError: the name is a checkpoint's, or more than a name.
        """
        ...

    async def probe(self, target: Target, prompt: Sequence[int]) -> AdapterProbe:
        """Measure what the adapters of a target change about the token after a prompt.

        Raises:
            InvalidRequestError: the target is the base, or the prompt is long.
            AdapterIncompatibleError, AdapterChangedError: as `Engine.generate`.
            GenerationFailedError: the numbers overflow.
        """
        ...


class Engine(Protocol):
    """The seam between HTTP and the model."""

    @property
    def adapters(self) -> Adapters:
        """The adapters folder and the slots."""
        ...

    @property
    def base(self) -> BaseInfo:
        """The resident base."""
        ...

    def models(self) -> list[ModelInfo]:
        """The base and every adapter that can be served, base first, then by name."""
        ...

    def model(self, name: str) -> ModelInfo:
        """One model by any spelling of `Target.model`.

        Raises:
            ModelNotFoundError: nothing has this name.
            AdapterIncompatibleError: it is there but cannot be served.
        """
        ...

    def resolve(self, name: str) -> Target:
        """Turn a request's `model` field into what to run; raises as `model` does.

        Waits for the disk, and a new adapter is hashed: not for an event loop.
        """
        ...

    async def target(self, name: str) -> Target:
        """As `resolve`. While a new adapter is hashed, nobody waits but who asked for it."""
        ...

    @property
    def tokenizer(self) -> TokenizerInfo:
        """What tokens the base has."""
        ...

    def encode(
        self,
        target: Target,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        options: FrameOptions = OPEN_ANSWER,
    ) -> tuple[int, ...]:
        """Render the messages in the target's prompt format; takes a while, in any thread.

        A missing system message is filled in with the recorded one. Tools are for a base that
        `knows_tools`; see `verse.prompt.render`.

        Raises:
            PromptTooLongError: no room is left for one token.
            InvalidRequestError: the format cannot hold these messages.
        """
        ...

    def encode_text(self, text: str, *, add_special_tokens: bool = True) -> tuple[int, ...]:
        """A text as it is, control tokens included, behind what the tokenizer begins texts with.

        Raises:
            PromptTooLongError: it is longer than the context.
        """
        ...

    def tokenize(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """As `encode_text`, but the text may be several contexts long.

        Raises:
            InvalidRequestError: it is longer than that.
        """
        ...

    def token_names(self, tokens: Sequence[int]) -> list[str]:
        """What the tokenizer calls tokens of the vocabulary."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text that tokens of the vocabulary spell."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """Queue a request and yield its chunks; closing the iterator frees its rows within a step.

        Raises, from the first `anext`:
            AdapterIncompatibleError: the adapter could not be loaded.
            InvalidRequestError: it wants more answers or adapters than there is room for, or a
                schema that cannot be followed.
            AdapterChangedError: its files kept changing for seconds.
            QueueFullError: too many wait already.

        At any time:
            DeadlineExceededError: its time is over.
            EngineClosedError: the engine takes no new work, or is closed while this runs.
            GenerationFailedError: the engine broke, the numbers overflow, or the answer cannot be
                held to its schema.
        """
        ...

    def health(self) -> Health:
        """A snapshot; cheap enough for every probe."""
        ...

    def stats(self) -> EngineStats:
        """Counts for an operator's graphs."""
        ...
