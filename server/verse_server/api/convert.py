"""Where the wire and the engine meet: bodies become engine requests, engine records the wire's.

What asks the engine for names and tokens runs beside the event loop (`encoding_pool`).
Answers are `answering`'s.
"""

import uuid
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import cast

import msgspec

from verse.prompt import OPEN_ANSWER, FrameOptions, Message, Tool, ToolCallMessage
from verse_server.api.admission import Admission
from verse_server.api.constraints import constraint_of
from verse_server.api.encoding_pool import encode_beside_the_loop
from verse_server.api.errors import RequestError
from verse_server.api.request_params import (
    check_extent,
    check_logit_bias,
    check_max_tokens,
    frame_options,
    num_top_logprobs,
    sampling_params,
    stop_strings,
)
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
    ScoringGroup,
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
_GROUP_SIZE = 8
"""Prompts that are scored together at most. With more, rows of a chunk would be short."""


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
    options = frame_options(request)
    target = await engine.target(name)
    check_free_choice(use, request, engine.base, target)
    tools = None
    if shows_tools(engine.base, target):
        tools = [] if use is None else use.shown()
    prompt = await encode_messages(engine, target, messages, tools, options)
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
    encode_text = partial(
        engine.encode_text, add_special_tokens=request.add_special_tokens is not False
    )
    encoded = await encode_beside_the_loop(partial(_encode_texts, encode_text, prompts), num_chars)
    rows = _completion_rows(request, admission, base, target, encoded)
    if not request.echo:
        return rows, [""] * len(rows)
    num_ids = sum(len(prompt) for prompt in prompts if not isinstance(prompt, str))
    read = partial(_texts_of, engine.decode, prompts)
    return rows, await encode_beside_the_loop(read, num_ids) if num_ids else read()


async def probe_request(
    request: ProbeRequest, name: str, engine: Engine
) -> tuple[Target, tuple[int, ...]]:
    """What a name means, and a theme in its format; raises as the engine does."""
    target = await engine.target(name)
    return target, await encode_messages(engine, target, [Message("user", request.prompt)])


async def encode_messages(
    engine: Engine,
    target: Target,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None = None,
    options: FrameOptions = OPEN_ANSWER,
) -> tuple[int, ...]:
    """A conversation's tokens, encoded beside the event loop; raises as `Engine.encode`."""
    complete = target.prompt_format.with_system(messages)
    calls = [c for m in complete if isinstance(m, ToolCallMessage) for c in m.calls]
    num_chars = sum(len(message.content) for message in complete)
    num_chars += sum(len(call.arguments) for call in calls)
    num_chars += len(msgspec.json.encode([tools, options.variables]))
    encode = partial(engine.encode, target, messages, tools, options)
    return await encode_beside_the_loop(encode, num_chars)


def _encode_texts(
    encode_text: Callable[[str], tuple[int, ...]], prompts: Sequence[str | tuple[int, ...]]
) -> list[tuple[int, ...]]:
    return [encode_text(p) if isinstance(p, str) else p for p in prompts]


def _texts_of(
    decode: Callable[[Sequence[int]], str], prompts: Sequence[str | tuple[int, ...]]
) -> list[str]:
    return [p if isinstance(p, str) else decode(p) for p in prompts]


def _chat_row(
    request: ChatCompletionRequest,
    admission: Admission,
    base: BaseInfo,
    target: Target,
    prompt: tuple[int, ...],
    use: ToolUse | None,
) -> GenerationRequest:
    check_logit_bias(request, base)
    max_tokens = request.max_completion_tokens or request.max_tokens or base.max_tokens
    row = _row(request, admission, base, target, prompt, max_tokens)
    return msgspec.structs.replace(
        row,
        num_top_logprobs=num_top_logprobs(request),
        constraint=constraint_of(request, request.response_format, use),
        stop=row.stop if use is None else (*row.stop, *use.stop),
        # Nothing has been said in an empty message, so the answer begins there.
        continues=bool(request.continue_final_message and request.messages[-1].content),
    )


def _completion_rows(
    request: CompletionRequest,
    admission: Admission,
    base: BaseInfo,
    target: Target,
    encoded: Sequence[tuple[int, ...]],
) -> list[GenerationRequest]:
    check_logit_bias(request, base)
    check_max_tokens(request)
    max_tokens = _DEFAULT_COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens
    constraint = constraint_of(request)
    scores_echo = bool(request.echo) and request.logprobs is not None
    score_prompt = scores_echo or request.prompt_logprobs is not None
    groups = _groups_of(len(encoded)) if score_prompt else [None] * len(encoded)
    return [
        msgspec.structs.replace(
            _row(request, admission, base, target, prompt, max_tokens),
            num_top_logprobs=request.logprobs,
            score_prompt=score_prompt,
            scored_with=group,
            num_prompt_logprobs=max(
                request.prompt_logprobs or 0, (request.logprobs or 0) if scores_echo else 0
            ),
            report_end=scores_echo,
            framed=False,
            constraint=constraint,
        )
        for prompt, group in zip(encoded, groups, strict=True)
    ]


def _groups_of(num_prompts: int) -> list[ScoringGroup | None]:
    """Which of the prompts of one request are scored together."""
    if num_prompts == 1:
        return [None]
    id_ = uuid.uuid4().hex
    sizes = [min(_GROUP_SIZE, num_prompts - first) for first in range(0, num_prompts, _GROUP_SIZE)]
    return [
        ScoringGroup(id=f"{id_}-{number}", size=size)
        for number, size in enumerate(sizes)
        for _ in range(size)
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
    max_tokens = min(max_tokens, room)
    check_extent(request, base, max_tokens)
    return GenerationRequest(
        target=target,
        prompt=prompt,
        max_tokens=max_tokens,
        sampling=sampling_params(request, base.sampling),
        stop=stop_strings(request),
        n=request.n or 1,
        client=request.user or admission.client,
        is_batch=admission.is_batch,
        max_seconds=admission.max_seconds,
        streamed=bool(request.stream),
        score_prompt=request.prompt_logprobs is not None,
        num_prompt_logprobs=request.prompt_logprobs or 0,
        ignore_eos=bool(request.ignore_eos),
        min_tokens=request.min_tokens or 0,
        stop_token_ids=tuple(request.stop_token_ids or ()),
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
        return [checked_ids(cast(list[int], prompt), base)]
    if len(prompt) > MAX_PROMPTS:
        raise RequestError(f"'prompt' holds at most {MAX_PROMPTS} prompts.", param="prompt")
    if all(isinstance(part, str) for part in prompt):
        return list(cast(list[str], prompt))
    if all(isinstance(part, list) for part in prompt):
        return [checked_ids(cast(list[int], part), base) for part in prompt]
    raise RequestError("'prompt' mixes texts and token ids; send one kind.", param="prompt")


def checked_ids(ids: Sequence[int], base: BaseInfo, param: str = "prompt") -> tuple[int, ...]:
    """Ids that are tokens of the base.

    Raises:
        RequestError: one is not.
    """
    wrong = next((i for i in ids if i >= base.vocab_size), None)
    if wrong is not None:
        raise RequestError(
            f"'{param}' holds token {wrong}; this model's tokens are 0 to {base.vocab_size - 1}.",
            param=param,
        )
    return tuple(ids)


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
