"""How far an adapter moves the base: the two next-token distributions after one prompt.

Engine thread only.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from verse_server.engine.errand import Owned
from verse_server.engine.errors import GenerationFailedError, InvalidRequestError
from verse_server.engine.lora import SlotWeights
from verse_server.engine.token_text import TokenTexts
from verse_server.engine.types import AdapterProbe, Target, TokenLogprob

_MAX_TOKENS = 2048
"""Running rows wait while a probe is computed."""
_NUM_TOP = 5


def probe(owned: Owned, target: Target, prompt: Sequence[int]) -> AdapterProbe:
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
    slots = owned.residency.pin(target.parts)
    try:
        base, adapted = _next_logits(owned, [(), slots], prompt)
    finally:
        owned.residency.unpin(target.parts)
    return _comparison(base, adapted, TokenTexts(owned.base.tokenizer), target.model, len(prompt))


def _next_logits(owned: Owned, rows: list[SlotWeights], prompt: Sequence[int]) -> mx.array:
    """(rows, vocab) in float32: one prompt, and different adapters."""
    owned.bank.route.set(rows, owned.bank)
    model = cast(Any, owned.base.model)
    tokens, cache = mx.array([list(prompt)] * len(rows)), make_prompt_cache(model)
    if len(prompt) > 1:
        # Nobody looks at these logits, so they are never computed.
        model(tokens[:, :-1], cache=cache)
        mx.eval([entry.state for entry in cache])  # pyright: ignore[reportUnknownMemberType]
    return cast(mx.array, model(tokens[:, -1:], cache=cache))[:, -1].astype(mx.float32)


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
