"""Where the wire and the engine meet: bodies become engine requests, engine records the wire's.

What asks the engine for names and tokens runs beside the event loop (`encoding_pool`).
Answers are `answering`'s.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import cast

import msgspec

from verse.prompt import Message, Tool, ToolCallMessage
from verse_server.api.admission import Admission
from verse_server.api.constraints import constraint_of
from verse_server.api.encoding_pool import encode_beside_the_loop
from verse_server.api.errors import RequestError
from verse_server.api.tools import (
    ToolUse,
    check_free_choice,
    message_of,
    shows_tools,
    tool_use,
)
from verse_server.engine.errors import PromptTooLongError
from verse_server.engine.interface import Engine
from verse_server.engine.types import (
    AdapterInfo,
    AdapterProbe,
    BaseInfo,
    GenerationRequest,
    Health,
    ModelInfo,
    SamplingParams,
    Target,
)
from verse_server.protocol.chat import (
    ChatCompletionRequest,
)
from verse_server.protocol.completions import MAX_PROMPTS, CompletionRequest
from verse_server.protocol.models import (
    Adapter,
    AdapterList,
    HealthResponse,
    Model,
    ModelList,
    Probe,
    ProbeRequest,
)
from verse_server.protocol.shared import SamplingRequest

_NAMES_OF_NO_ADAPTER = ("base", "default_model")
"""Beside the base's own id: what `model` may hold while `adapters` names the adapter."""
_DEFAULT_COMPLETION_TOKENS = 16


async def chat_rows(
    request: ChatCompletionRequest, engine: Engine, admission: Admission
) -> list[GenerationRequest]:
    """The one request to the engine that a conversation becomes.

    Raises:
        RequestError: what is asked for does not go together.
        EngineError: as `Engine.target` and `Engine.encode`.
    """
    name, use = _model_name(request, engine.base), tool_use(request)
    messages = [message_of(turn) for turn in request.messages]
    target = await engine.target(name)
    check_free_choice(use, request, engine.base, target)
    tools = None
    if shows_tools(engine.base, target):
        tools = [] if use is None else use.shown()
    prompt = await _encode_messages(engine, target, messages, tools)
    return [_chat_row(request, admission, engine.base, target, prompt, use)]


async def completion_rows(
    request: CompletionRequest, engine: Engine, admission: Admission
) -> tuple[list[GenerationRequest], list[str]]:
    """One request to the engine for each prompt, and what to echo before its answers.

    Raises:
        RequestError: a prompt is empty or mixed, or what is asked for does not go together.
        EngineError: as `Engine.target`, or a prompt leaves no room.
    """
    base, prompts = engine.base, _prompts(request, engine.base)
    target = await engine.target(_model_name(request, base))
    num_chars = sum(len(prompt) for prompt in prompts if isinstance(prompt, str))
    encoded = await encode_beside_the_loop(partial(_encode_texts, engine, prompts), num_chars)
    rows = _completion_rows(request, admission, base, target, encoded)
    if not request.echo:
        return rows, [""] * len(rows)
    return rows, [p if isinstance(p, str) else engine.decode(p) for p in prompts]


async def probe_request(
    request: ProbeRequest, name: str, engine: Engine
) -> tuple[Target, tuple[int, ...]]:
    """What a name means, and a theme in its format; raises as the engine does."""
    target = await engine.target(name)
    return target, await _encode_messages(engine, target, [Message("user", request.prompt)])


async def _encode_messages(
    engine: Engine,
    target: Target,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None = None,
) -> tuple[int, ...]:
    complete = target.prompt_format.with_system(messages)
    calls = [c for m in complete if isinstance(m, ToolCallMessage) for c in m.calls]
    num_chars = sum(len(message.content) for message in complete)
    num_chars += sum(len(call.arguments) for call in calls) + len(msgspec.json.encode(tools))
    return await encode_beside_the_loop(partial(engine.encode, target, messages, tools), num_chars)


def _encode_texts(
    engine: Engine, prompts: Sequence[str | tuple[int, ...]]
) -> list[tuple[int, ...]]:
    return [engine.encode_text(p) if isinstance(p, str) else p for p in prompts]


def _chat_row(
    request: ChatCompletionRequest,
    admission: Admission,
    base: BaseInfo,
    target: Target,
    prompt: tuple[int, ...],
    use: ToolUse | None,
) -> GenerationRequest:
    _check_logit_bias(request, base)
    max_tokens = request.max_completion_tokens or request.max_tokens or base.max_tokens
    row = _row(request, admission, base, target, prompt, max_tokens)
    return msgspec.structs.replace(
        row,
        num_top_logprobs=_num_top_logprobs(request),
        constraint=constraint_of(request, request.response_format, use),
        stop=row.stop if use is None else (*row.stop, *use.stop),
    )


def _completion_rows(
    request: CompletionRequest,
    admission: Admission,
    base: BaseInfo,
    target: Target,
    encoded: Sequence[tuple[int, ...]],
) -> list[GenerationRequest]:
    _check_logit_bias(request, base)
    _check_max_tokens(request)
    max_tokens = _DEFAULT_COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens
    constraint = constraint_of(request)
    return [
        msgspec.structs.replace(
            _row(request, admission, base, target, prompt, max_tokens),
            num_top_logprobs=request.logprobs,
            score_prompt=bool(request.echo) and request.logprobs is not None,
            framed=False,
            constraint=constraint,
        )
        for prompt in encoded
    ]


def _row(
    request: SamplingRequest,
    admission: Admission,
    base: BaseInfo,
    target: Target,
    prompt: tuple[int, ...],
    max_tokens: int,
) -> GenerationRequest:
    """What both wires ask for alike; an answer gets at most what its prompt leaves of the context.

    Raises:
        RequestError: the prompt is empty.
        PromptTooLongError: it leaves no room for an answer that has any token.
    """
    if not prompt:
        raise RequestError("A prompt is empty; send at least one token.", param="prompt")
    room = base.context_length - len(prompt)
    if room < min(max_tokens, 1):
        raise PromptTooLongError(len(prompt), base.context_length, "prompt")
    return GenerationRequest(
        target=target,
        prompt=prompt,
        max_tokens=min(max_tokens, room),
        sampling=_sampling_params(request, base.sampling),
        stop=_stop_strings(request),
        n=request.n or 1,
        client=request.user or admission.client,
        is_batch=admission.is_batch,
        max_seconds=admission.max_seconds,
        streamed=bool(request.stream),
    )


def _model_name(request: SamplingRequest, base: BaseInfo) -> str:
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


def _prompts(request: CompletionRequest, base: BaseInfo) -> list[str | tuple[int, ...]]:
    """The prompts, each a text or token ids.

    Raises:
        RequestError: the list is mixed or too long, or an id is no token.
    """
    prompt = request.prompt
    if isinstance(prompt, str):
        return [prompt]
    if all(isinstance(part, int) for part in prompt):
        return [_checked_ids(cast(list[int], prompt), base)]
    if len(prompt) > MAX_PROMPTS:
        raise RequestError(f"'prompt' holds at most {MAX_PROMPTS} prompts.", param="prompt")
    if all(isinstance(part, str) for part in prompt):
        return list(cast(list[str], prompt))
    if all(isinstance(part, list) for part in prompt):
        return [_checked_ids(cast(list[int], part), base) for part in prompt]
    raise RequestError("'prompt' mixes texts and token ids; send one kind.", param="prompt")


def _checked_ids(ids: Sequence[int], base: BaseInfo) -> tuple[int, ...]:
    wrong = next((i for i in ids if i >= base.vocab_size), None)
    if wrong is not None:
        raise RequestError(
            f"'prompt' holds token {wrong}; this model's tokens are 0 to {base.vocab_size - 1}.",
            param="prompt",
        )
    return tuple(ids)


def _check_max_tokens(request: CompletionRequest) -> None:
    if request.max_tokens == 0 and not request.echo:
        raise RequestError(
            "A 'max_tokens' of 0 asks for no text at all; set it to 1 or more, or 'echo' to true.",
            param="max_tokens",
        )


def _stop_strings(request: SamplingRequest) -> tuple[str, ...]:
    """None, one or several."""
    stop = request.stop if request.stop is not None else ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def _check_logit_bias(request: SamplingRequest, base: BaseInfo) -> None:
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


def _sampling_params(request: SamplingRequest, defaults: SamplingParams) -> SamplingParams:
    """What the request says, and the base's defaults for the rest."""
    given = {
        name: value
        for name in SamplingParams.__struct_fields__
        if (value := getattr(request, name)) is not None
    }
    alias = request.repeat_penalty
    if alias is not None and given.setdefault("repetition_penalty", alias) != alias:
        raise RequestError(
            "'repeat_penalty' and 'repetition_penalty' are one thing; give one of them.",
            param="repeat_penalty",
        )
    if given.get("top_k") == -1:
        given["top_k"] = 0
    return msgspec.structs.replace(defaults, **given)


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
