"""The smaller parts of a request, one by one: how to draw, when to stop, what the frame is told.

Each becomes what the engine takes, or a refusal that names its field.
"""

from typing import Any

import msgspec

from verse.prompt import FrameOptions
from verse_server.api.errors import RequestError
from verse_server.engine.types import BaseInfo, SamplingParams
from verse_server.protocol.chat import ChatCompletionRequest
from verse_server.protocol.completions import CompletionRequest
from verse_server.protocol.models import TokenizeRequest
from verse_server.protocol.shared import SamplingRequest

_OF_THE_TEMPLATE = frozenset(
    {
        *("conversation", "messages", "tools", "documents", "chat_template", "tokenize"),
        *("add_generation_prompt", "continue_final_message", "padding", "truncation"),
        *("max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
        *("tokenizer_kwargs", "self"),
    }
)
"""What transformers' own `apply_chat_template` takes; a variable must not set it."""


def frame_options(request: ChatCompletionRequest | TokenizeRequest) -> FrameOptions:
    """How the prompt of a conversation ends, and what its template is told.

    Raises:
        RequestError: the fields contradict each other, or a variable is none.
    """
    goes_on = bool(request.continue_final_message)
    if goes_on and request.add_generation_prompt:
        raise RequestError(
            "'continue_final_message' goes on with the last message and 'add_generation_prompt' "
            "begins a new one; keep one of them.",
            param="continue_final_message",
        )
    variables = request.chat_template_kwargs or {}
    if (wrong := next((n for n in variables if n in _OF_THE_TEMPLATE), None)) is not None:
        param = f"chat_template_kwargs.{wrong}"
        raise RequestError(
            f"'{param}' is no variable of a template; leave it out.",
            param=param,
            code="unsupported_parameter",
        )
    if isinstance(request, ChatCompletionRequest):
        variables = _thinking(request) | variables
    return FrameOptions(
        add_generation_prompt=not goes_on and request.add_generation_prompt is not False,
        continue_final_message=goes_on,
        variables=variables,
    )


def _thinking(request: ChatCompletionRequest) -> dict[str, Any]:
    """As templates spell it: Qwen3's `enable_thinking`, gpt-oss's `reasoning_effort`."""
    effort = request.reasoning_effort
    if effort is None:
        return {}
    return {"enable_thinking": effort not in ("none", "minimal"), "reasoning_effort": effort}


def check_extent(request: SamplingRequest, base: BaseInfo, max_tokens: int) -> None:
    """Refuse ends that cannot be: too many tokens at least, or a token that is none.

    Args:
        request: What is asked for.
        base: What runs.
        max_tokens: What the context leaves of the request's.
    """
    if (request.min_tokens or 0) > max_tokens:
        raise RequestError(
            f"'min_tokens' is {request.min_tokens}, and the answer has room for {max_tokens}; "
            "ask for fewer, or raise 'max_tokens'.",
            param="min_tokens",
        )
    wrong = next((i for i in request.stop_token_ids or () if i >= base.vocab_size), None)
    if wrong is not None:
        raise _no_token("stop_token_ids", wrong, base)
    if request.stream and request.prompt_logprobs is not None:
        raise RequestError(
            "'prompt_logprobs' is not for streams; set 'stream' to false or leave it out.",
            param="prompt_logprobs",
        )


def _no_token(param: str, token: int, base: BaseInfo) -> RequestError:
    return RequestError(
        f"'{param}' names token {token}; this model's tokens are 0 to {base.vocab_size - 1}.",
        param=param,
    )


def check_max_tokens(request: CompletionRequest) -> None:
    """Refuse a completion that asks for nothing at all."""
    if request.max_tokens == 0 and not request.echo:
        raise RequestError(
            "A 'max_tokens' of 0 asks for no text at all; set it to 1 or more, or 'echo' to true.",
            param="max_tokens",
        )


def stop_strings(request: SamplingRequest) -> tuple[str, ...]:
    """None, one or several."""
    stop = request.stop if request.stop is not None else ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def check_logit_bias(request: SamplingRequest, base: BaseInfo) -> None:
    """Refuse a bias of a token that this model does not have."""
    tokens = request.logit_bias or (0,)
    for extreme in (min(tokens), max(tokens)):  # of 50,000, in a moment
        if not 0 <= extreme < base.vocab_size:
            raise _no_token("logit_bias", extreme, base)


def num_top_logprobs(request: ChatCompletionRequest) -> int | None:
    """How many likeliest tokens to report in each place; None reports nothing."""
    if request.logprobs:
        return request.top_logprobs or 0
    if request.top_logprobs:
        raise RequestError("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
    return None


def sampling_params(request: SamplingRequest, defaults: SamplingParams) -> SamplingParams:
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
