"""Log-probabilities of a prompt's own tokens. Engine thread only.

The batch computes logits for the last token of a prompt only, so a prompt to be scored goes through
the model here, before its rows join the batch. It goes chunk by chunk, one between two steps: the
poems being written wait for no more than a chunk, and no more than a chunk's logits are in memory.
One prompt at a time has keys and values; they take no more than what was set aside for its rows,
which have none yet.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from verse.base_model import BaseModel
from verse_server.engine.adapters.lora import LoraBank
from verse_server.engine.kv_cache import PrefixCache
from verse_server.engine.sequence import EngineRequest, Sequence
from verse_server.engine.text import TokenTexts
from verse_server.engine.types import TokenLogprob, TokenText

_MAX_TOKENS = 64
"""Of a chunk. Always as many, whoever else is there: so the numbers are the same, to the last bit.
"""
_MAX_LOGITS = 1 << 24
"""Of a chunk: tokens x vocabulary. In float32 64 MiB, a few times over while they are reduced."""


@dataclass(frozen=True)
class Scored:
    """A request whose prompt is done."""

    request: EngineRequest
    prompt: tuple[TokenText, ...]
    """Its tokens; all but the first with log-probabilities. Empty if none were asked for."""


class PromptScorer:
    """Prompts that wait to be scored, and the one that is being scored."""

    def __init__(self, base: BaseModel, bank: LoraBank, prefixes: PrefixCache) -> None:
        self._model = cast(Any, base.model)
        self._bank = bank
        self._prefixes = prefixes
        self._tokens = TokenTexts(base.tokenizer)
        self._chunk = max(1, min(_MAX_TOKENS, _MAX_LOGITS // base.vocab_size))
        self._waiting: deque[EngineRequest] = deque()
        self._prompt: _Prompt | None = None

    def add(self, request: EngineRequest) -> None:
        """Queue a request whose sequences have their adapters."""
        self._waiting.append(request)

    def discard(self, request: EngineRequest) -> None:
        """Nobody waits for this one any more; others are ignored."""
        if self._prompt is not None and self._prompt.request is request:
            self._prompt = None
        elif request in self._waiting:
            self._waiting.remove(request)

    @property
    def is_busy(self) -> bool:
        """Whether `step` has anything to do."""
        return self._prompt is not None or bool(self._waiting)

    def step(self) -> Scored | None:
        """Compute a chunk, if there is anything to do; returns a request whose prompt is done."""
        prompt = self._prompt or self._next()
        if prompt is None:
            return None
        if prompt.num_left:
            prompt.found += self._score(prompt)
        if prompt.num_left:
            return None
        self._prompt = None
        asked = prompt.request.asked
        if asked.score_prompt and asked.max_tokens:  # its rows begin with what is here already
            self._prefixes.store(prompt.first.version, prompt.head, prompt.cache, 0)
        return Scored(prompt.request, tuple(prompt.found))

    def _next(self) -> "_Prompt | None":
        if self._waiting:
            request = self._waiting.popleft()
            self._prompt = _Prompt(request, make_prompt_cache(self._model), [])
            if request.asked.score_prompt:
                self._prompt.found.append(self._tokens.text(request.asked.prompt[0]))
        return self._prompt

    def _score(self, prompt: "_Prompt") -> list[TokenLogprob]:
        """The log-probabilities of the tokens that follow the next chunk's."""
        start, row = len(prompt.found) - 1, prompt.first
        inputs = prompt.head[start : start + self._chunk]
        following = list(row.prompt[start + 1 : start + 1 + len(inputs)])
        self._bank.route.set([row.adapter_slots], self._bank)
        logits = cast(mx.array, self._model(mx.array([inputs]), cache=prompt.cache))[0]
        num_top = prompt.request.asked.num_prompt_logprobs
        own, ranks, top_ids, top = _logprobs(logits, following, num_top)
        mx.eval([entry.state for entry in prompt.cache])  # pyright: ignore[reportUnknownMemberType]
        return [
            self._tokens.logprob(token, value, tuple(map(self._tokens.logprob, ids, values)), rank)
            for token, value, rank, ids, values in zip(
                following, own, ranks, top_ids, top, strict=True
            )
        ]


@dataclass
class _Prompt:
    request: EngineRequest
    cache: list[Any]
    found: list[TokenText]

    @property
    def first(self) -> Sequence:
        return self.request.sequences[0]

    @property
    def head(self) -> list[int]:
        """What has a token behind it."""
        return list(self.first.prompt[:-1])

    @property
    def num_left(self) -> int:
        """Tokens whose logits are wanted still."""
        return len(self.first.prompt) - len(self.found) if self.request.asked.score_prompt else 0


def _logprobs(
    logits: mx.array, following: list[int], num_top: int
) -> tuple[list[float], list[int], list[list[int]], list[list[float]]]:
    """Of each token that follows, its rank, and of the likeliest in its place, likeliest first.

    Args:
        logits: (tokens, vocab), any float type.
        following: The token that comes after each.
        num_top: How many of the likeliest.
    """
    logits = logits.astype(mx.float32)
    total = mx.logsumexp(logits, axis=-1, keepdims=True)
    of_following = mx.take_along_axis(logits, mx.array(following)[:, None], axis=-1)
    own, ranks = of_following - total, mx.sum(logits > of_following, axis=-1) + 1
    top_ids = _likeliest(logits, num_top)
    top = mx.take_along_axis(logits, top_ids, axis=-1) - total
    mx.eval(own, ranks, top_ids, top)  # pyright: ignore[reportUnknownMemberType]
    return (
        cast(list[float], own[:, 0].tolist()),
        cast(list[int], ranks.tolist()),
        cast(list[list[int]], top_ids.tolist()),
        cast(list[list[float]], top.tolist()),
    )


def _likeliest(logits: mx.array, num_top: int) -> mx.array:
    """(tokens, num_top) ids, likeliest first."""
    if num_top < 2:  # what harnesses ask for; a partition takes ten times as long
        return mx.argmax(logits, axis=-1, keepdims=True)[:, :num_top]
    ids = mx.argpartition(-logits, num_top, axis=-1)[:, :num_top]
    order = mx.argsort(-mx.take_along_axis(logits, ids, axis=-1), axis=-1)
    return mx.take_along_axis(ids, order, axis=-1)
