"""Where the wire and the engine meet: requests become engine records, and those become answers.

Pure but for the clock and the random id in `Answer.to`.
"""

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from verse.prompt import Message
from verse_server.api.admission import Admission
from verse_server.api.errors import RequestError
from verse_server.engine.types import (
    AdapterInfo,
    AdapterProbe,
    BaseInfo,
    GenerationChunk,
    GenerationRequest,
    Health,
    ModelInfo,
    SamplingParams,
    Target,
    TokenLogprob,
)
from verse_server.protocol.adapters import Adapter, AdapterList, Probe
from verse_server.protocol.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChatCompletionMessageParam,
    ChatCompletionRequest,
    ChatCompletionTokenLogprob,
    Choice,
    ChoiceDelta,
    ChoiceLogprobs,
    ChunkChoice,
    ResponseFormat,
    ResponseFormatJSONObject,
    ResponseFormatJSONSchema,
    TopLogprob,
)
from verse_server.protocol.health import HealthResponse
from verse_server.protocol.models import Model, ModelList
from verse_server.protocol.sampling import SamplingRequest
from verse_server.protocol.usage import CompletionUsage, PromptTokensDetails

_NAMES_OF_NO_ADAPTER = ("base", "default_model")
"""Beside the base's own id: what `model` may hold while `adapters` names the adapter."""
_FINGERPRINT_CHARS = 8


def model_name(request: SamplingRequest, base: BaseInfo) -> str:
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
    request: ChatCompletionRequest,
    target: Target,
    prompt: tuple[int, ...],
    base: BaseInfo,
    admission: Admission,
) -> GenerationRequest:
    """One row for the engine; an answer gets at most what the prompt leaves of the context."""
    room = base.context_length - len(prompt)
    asked = request.max_completion_tokens or request.max_tokens or base.max_tokens
    check_logit_bias(request, base)
    return GenerationRequest(
        target=target,
        prompt=prompt,
        max_tokens=min(asked, room),
        sampling=sampling_params(request, base.sampling),
        stop=stop_strings(request),
        n=request.n or 1,
        num_top_logprobs=_num_top_logprobs(request),
        client=admission.client,
        is_batch=admission.is_batch,
        max_seconds=admission.max_seconds,
        json_schema=_json_schema(request.response_format),
        streamed=bool(request.stream),
    )


def stop_strings(request: SamplingRequest) -> tuple[str, ...]:
    """None, one or several."""
    stop = request.stop if request.stop is not None else ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def check_logit_bias(request: SamplingRequest, base: BaseInfo) -> None:
    """Refuse a bias of a token that this model does not have."""
    wrong = next((i for i in request.logit_bias or {} if not 0 <= i < base.vocab_size), None)
    if wrong is not None:
        raise RequestError(
            f"'logit_bias' names token {wrong}; this model's tokens are 0 to "
            f"{base.vocab_size - 1}.",
            param="logit_bias",
        )


def _num_top_logprobs(request: ChatCompletionRequest) -> int | None:
    if request.logprobs:
        return request.top_logprobs or 0
    if request.top_logprobs:
        raise RequestError("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
    return None


def _json_schema(wanted: ResponseFormat | None) -> str | None:
    match wanted:
        case ResponseFormatJSONObject():
            return '{"type": "object"}'
        case ResponseFormatJSONSchema():
            return msgspec.json.encode(wanted.json_schema.schema).decode()
        case _:
            return None


def sampling_params(request: SamplingRequest, defaults: SamplingParams) -> SamplingParams:
    """What the request says, and the base's defaults for the rest."""
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
    cached_tokens: int

    @classmethod
    def to(cls, request: GenerationRequest, first: GenerationChunk, base: BaseInfo) -> "Answer":
        """A fresh one, of which the first chunk is there."""
        target = first.target
        return cls(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=target.model,
            system_fingerprint=fingerprint(target, base),
            prompt_tokens=len(request.prompt),
            cached_tokens=first.cached_tokens,
        )

    def usage(self, completion_tokens: int) -> CompletionUsage:
        """The counts once so many tokens are drawn, all answers together."""
        return usage(self.prompt_tokens, completion_tokens, self.cached_tokens)

    def completion(self, choices: Iterable[Choice], completion_tokens: int) -> ChatCompletion:
        """The whole answer in one body."""
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            system_fingerprint=self.system_fingerprint,
            choices=tuple(choices),
            usage=self.usage(completion_tokens),
        )

    def chunk(self, choice: ChunkChoice, usage: msgspec.UnsetType | None) -> ChatCompletionChunk:
        """One event that adds to an answer, or ends it."""
        return ChatCompletionChunk(
            id=self.id,
            created=self.created,
            model=self.model,
            system_fingerprint=self.system_fingerprint,
            choices=(choice,),
            usage=usage,
        )

    def usage_chunk(self, completion_tokens: int) -> ChatCompletionChunk:
        """The event after the last, for who asked for `include_usage`."""
        return ChatCompletionChunk(
            id=self.id,
            created=self.created,
            model=self.model,
            system_fingerprint=self.system_fingerprint,
            choices=(),
            usage=self.usage(completion_tokens),
        )


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> CompletionUsage:
    """The counts of one request."""
    return CompletionUsage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached_tokens),
    )


def choice(chunks: Sequence[GenerationChunk], with_logprobs: bool) -> Choice:
    """All chunks of one answer, the last of which has a finish reason."""
    reason = chunks[-1].finish_reason
    assert reason is not None
    entries = [entry for chunk in chunks for entry in chunk.logprobs]
    return Choice(
        index=chunks[0].index,
        message=ChatCompletionMessage(content="".join(chunk.text for chunk in chunks)),
        finish_reason=reason,
        logprobs=choice_logprobs(entries) if with_logprobs else None,
    )


def chunk_choices(
    chunk: GenerationChunk, is_first: bool, with_logprobs: bool
) -> Iterator[ChunkChoice]:
    """What a stream says of one chunk: the role before the first text, the reason at the end."""
    index = chunk.index
    if is_first:
        yield ChunkChoice(index=index, delta=ChoiceDelta(role="assistant", content=""))
    if chunk.text or chunk.logprobs:
        yield ChunkChoice(
            index=index,
            delta=ChoiceDelta(content=chunk.text),
            logprobs=choice_logprobs(chunk.logprobs) if with_logprobs else None,
        )
    if chunk.finish_reason is not None:
        yield ChunkChoice(index=index, delta=ChoiceDelta(), finish_reason=chunk.finish_reason)


def choice_logprobs(entries: Iterable[TokenLogprob]) -> ChoiceLogprobs:
    """The engine's entries as the wire has them."""
    return ChoiceLogprobs(
        content=tuple(
            ChatCompletionTokenLogprob(
                token=entry.token,
                bytes=entry.bytes,
                logprob=entry.logprob,
                top_logprobs=tuple(
                    TopLogprob(token=top.token, bytes=top.bytes, logprob=top.logprob)
                    for top in entry.top
                ),
            )
            for entry in entries
        )
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


def wire_adapter(info: AdapterInfo) -> Adapter:
    """A folder as `/v1/adapters` shows it."""
    return msgspec.convert(info, Adapter, from_attributes=True)


def wire_adapters(infos: Iterable[AdapterInfo], num_slots: int) -> AdapterList:
    """All of them."""
    return AdapterList(data=tuple(wire_adapter(info) for info in infos), num_slots=num_slots)


def wire_probe(probe: AdapterProbe) -> Probe:
    """A measurement as the wire has it."""
    return msgspec.convert(probe, Probe, from_attributes=True)


def wire_health(health: Health) -> HealthResponse:
    """The engine's state as `/health` shows it."""
    return msgspec.convert(health, HealthResponse, from_attributes=True)
