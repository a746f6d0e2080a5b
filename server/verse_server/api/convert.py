"""Where the wire and the engine meet: requests become engine records, and those become answers.

Pure but for the clock and the random id in `Answer.to`.
"""

import time
import uuid
from collections.abc import Iterable

import msgspec

from verse.prompt import Message
from verse_server.api.errors import RequestError
from verse_server.engine.types import (
    BaseInfo,
    GenerationRequest,
    Health,
    ModelInfo,
    SamplingParams,
    Target,
)
from verse_server.protocol.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChatCompletionMessageParam,
    ChatCompletionRequest,
    Choice,
    ChoiceDelta,
    ChunkChoice,
    CompletionUsage,
    FinishReason,
)
from verse_server.protocol.health import HealthResponse
from verse_server.protocol.models import Model, ModelList

_NAMES_OF_NO_ADAPTER = ("base", "default_model")
"""Beside the base's own id: what `model` may hold while `adapters` names the adapter."""
_FINGERPRINT_CHARS = 8


def model_name(request: ChatCompletionRequest, base: BaseInfo) -> str:
    """The one spelling that `model` and `adapters` ask for together.

    Raises:
        RequestError: they name two different adapters.
    """
    if request.adapters is None or request.adapters == request.model:
        return request.model
    if request.model in (base.id, *_NAMES_OF_NO_ADAPTER):
        return request.adapters
    raise RequestError(
        f"'model' asks for {request.model!r} and 'adapters' for {request.adapters!r}; name one.",
        param="adapters",
    )


def engine_messages(params: Iterable[ChatCompletionMessageParam]) -> list[Message]:
    """Turns as the prompt formats know them: `developer` is `system`, parts are one text."""
    return [
        Message(
            role="system" if param.role == "developer" else param.role,
            content=param.content
            if isinstance(param.content, str)
            else "".join(part.text for part in param.content),
        )
        for param in params
    ]


def generation_request(
    request: ChatCompletionRequest, target: Target, prompt: tuple[int, ...], base: BaseInfo
) -> GenerationRequest:
    """One row for the engine; an answer gets at most what the prompt leaves of the context."""
    room = base.context_length - len(prompt)
    asked = request.max_completion_tokens or request.max_tokens or room
    stop = request.stop if request.stop is not None else ()
    return GenerationRequest(
        target=target,
        prompt=prompt,
        max_tokens=min(asked, room),
        sampling=_sampling(request, base.sampling),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
    )


def _sampling(request: ChatCompletionRequest, defaults: SamplingParams) -> SamplingParams:
    given = {
        name: value
        for name in SamplingParams.__struct_fields__
        if (value := getattr(request, name)) is not None
    }
    if given.get("top_k") == -1:
        given["top_k"] = 0
    return msgspec.structs.replace(defaults, **given)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What all parts of one answer share."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    prompt_tokens: int

    @classmethod
    def to(cls, request: GenerationRequest, target: Target, base: BaseInfo) -> "Answer":
        """A fresh one for a row, written by `target`."""
        return cls(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=target.model,
            system_fingerprint=fingerprint(target, base),
            prompt_tokens=len(request.prompt),
        )

    def usage(self, completion_tokens: int) -> CompletionUsage:
        """The counts once so many tokens are drawn."""
        return CompletionUsage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=self.prompt_tokens + completion_tokens,
        )

    def completion(self, text: str, completion_tokens: int, reason: FinishReason) -> ChatCompletion:
        """The whole answer in one body."""
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            system_fingerprint=self.system_fingerprint,
            choices=(Choice(message=ChatCompletionMessage(content=text), finish_reason=reason),),
            usage=self.usage(completion_tokens),
        )

    def chunk(
        self,
        delta: ChoiceDelta,
        usage: msgspec.UnsetType | None,
        reason: FinishReason | None = None,
    ) -> ChatCompletionChunk:
        """One event that adds to the answer, or ends it."""
        return self._event((ChunkChoice(delta=delta, finish_reason=reason),), usage)

    def usage_chunk(self, completion_tokens: int) -> ChatCompletionChunk:
        """The event after the last, for who asked for `include_usage`."""
        return self._event((), self.usage(completion_tokens))

    def _event(
        self, choices: tuple[ChunkChoice, ...], usage: CompletionUsage | msgspec.UnsetType | None
    ) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self.id,
            created=self.created,
            model=self.model,
            system_fingerprint=self.system_fingerprint,
            choices=choices,
            usage=usage,
        )


def fingerprint(target: Target, base: BaseInfo) -> str:
    """The weights behind an answer: the base, and the version of each adapter on it."""
    digests = "+".join(part.digest[:_FINGERPRINT_CHARS] for part in target.parts)
    return f"{base.id}-{digests}" if digests else base.id


def wire_model(info: ModelInfo) -> Model:
    """A model as `/v1/models` shows it; the fields have the same names on both sides."""
    return msgspec.convert(info, Model, from_attributes=True)


def wire_models(infos: Iterable[ModelInfo]) -> ModelList:
    """All of them."""
    return ModelList(data=tuple(wire_model(info) for info in infos))


def wire_health(health: Health) -> HealthResponse:
    """The engine's state as `/health` shows it."""
    return msgspec.convert(health, HealthResponse, from_attributes=True)
