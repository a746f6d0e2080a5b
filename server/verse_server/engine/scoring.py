"""Log-probabilities of prompts' own tokens. Engine thread only.

The batch computes logits for the last token of a prompt only, so a prompt to be scored goes through
the model here, before its rows join the batch. It goes chunk by chunk, one between two steps: the
poems being written wait for no more than a chunk, and no more than a chunk's logits are in memory.

The prompts of one request go together. What all of them begin with is computed once; then each is a
row of its chunks. They have keys and values for no more than what was set aside for their rows in
the batch, which have none yet. Prompts of different requests never meet: so the numbers are the
same, to the last bit, whoever else is there.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx
from mlx_lm.models.cache import KVCache, make_prompt_cache

from verse.base_model import BaseModel
from verse_server.engine.adapters.lora import LoraBank, SlotWeights
from verse_server.engine.kv_cache import PrefixCache, Version
from verse_server.engine.sequence import EngineRequest
from verse_server.engine.text import TokenTexts
from verse_server.engine.types import TokenLogprob, TokenText

_MAX_TOKENS = 64
"""Of a chunk, over all its rows. Always as many, whoever else is there."""
_MAX_LOGITS = 1 << 24
"""Of a chunk: tokens x vocabulary. In float32 64 MiB, a few times over while they are reduced."""
_GATHERING_SECONDS = 0.05
"""How long a prompt waits for the others of its request, which come one after another."""
_PAUSE_SECONDS = 0.0005


@dataclass(frozen=True)
class Scored:
    """A request whose prompt is done."""

    request: EngineRequest
    prompt: tuple[TokenText, ...]
    """Its tokens; all but the first with log-probabilities. Empty if none were asked for."""


class PromptScorer:
    """Prompts that wait to be scored, and those that are being scored together."""

    def __init__(
        self,
        base: BaseModel,
        bank: LoraBank,
        prefixes: PrefixCache,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = cast(Any, base.model)
        self._bank = bank
        self._prefixes = prefixes
        self._clock = clock
        self._tokens = TokenTexts(base.tokenizer)
        self._chunk = max(1, min(_MAX_TOKENS, _MAX_LOGITS // base.vocab_size))
        self._waiting: list[EngineRequest] = []
        self._group: _Group | None = None

    def add(self, request: EngineRequest) -> None:
        """Queue a request whose sequences have their adapters."""
        self._waiting.append(request)

    def discard(self, request: EngineRequest) -> None:
        """Nobody waits for this one any more; others are ignored."""
        if request in self._waiting:
            self._waiting.remove(request)
        elif self._group is not None:
            self._leave([p for p in self._group.prompts if p.request is request])

    @property
    def is_busy(self) -> bool:
        """Whether `step` has anything to do."""
        return self._group is not None or bool(self._waiting)

    def step(self) -> list[Scored]:
        """Compute a chunk, if there is anything to do; returns requests whose prompts are done."""
        self._group = group = self._group or self._next()
        if group is None:
            if self._waiting:
                time.sleep(_PAUSE_SECONDS)  # who sends the rest of them needs the interpreter
            return []
        if any(prompt.num_left for prompt in group.prompts):
            self._score(group)
        done = [prompt for prompt in group.prompts if not prompt.num_left]
        for prompt in done:
            self._keep(group, prompt)
        self._leave(done)
        return [Scored(prompt.request, tuple(prompt.found)) for prompt in done]

    def _keep(self, group: "_Group", prompt: "_Prompt") -> None:
        """The rows of a prompt that is answered begin with what is here already."""
        asked, num_tokens = prompt.request.asked, len(prompt.head)
        if asked.score_prompt and asked.max_tokens and self._prefixes.would_keep(num_tokens):
            version = prompt.request.sequences[0].version
            self.store(version, prompt.head, group.cache, group.row_of(prompt))

    def store(
        self, version: Version, tokens: list[int], cache: "ScoringCache", row: int | None
    ) -> None:
        """Leave the keys and values of a row to those who ask with the same beginning."""
        self._prefixes.store(version, tokens, cache.extract(row, len(tokens)), 0)

    def new_cache(self) -> "ScoringCache":
        """For prompts that are scored together."""
        return ScoringCache(self._model, self._bank)

    def _next(self) -> "_Group | None":
        """The first that can begin, with the others of its request; None if all wait for others."""
        for first in self._waiting:
            peers, together = [first], first.asked.scored_with
            if together is not None:
                peers = [r for r in self._waiting if r.asked.scored_with == together]
                is_late = self._clock() - first.queued_at > _GATHERING_SECONDS
                if len(peers) < together.size and not is_late:
                    continue
            return self._begin(peers)
        return None

    def _begin(self, peers: list[EngineRequest]) -> "_Group":
        cache = self.new_cache()
        if not cache.can_pick:
            del peers[1:]  # what they share could not be copied into each row
        alike = [request for request in peers if _computation(request) == _computation(peers[0])]
        self._waiting = [request for request in self._waiting if request not in alike]
        alike.sort(key=lambda request: request.asked.prompt)  # not as they happened to come
        prompts = [_Prompt(request, []) for request in alike]
        for prompt in prompts:
            if prompt.request.asked.score_prompt:
                prompt.found.append(self._tokens.text(prompt.tokens[0]))
        return _Group(prompts, cache)

    def _leave(self, prompts: Sequence["_Prompt"]) -> None:
        assert self._group is not None
        self._group.leave(prompts)
        if not self._group.prompts:
            self._group = None

    def _score(self, group: "_Group") -> None:
        """The log-probabilities of the tokens that follow the next chunk's."""
        rows = group.next_rows()
        start, width = group.num_computed, min(group.num_next, max(1, self._chunk // len(rows)))
        inputs = [_padded(prompt.head[start : start + width], width) for prompt in rows]
        following = [_padded(prompt.tokens[start + 1 :][:width], width) for prompt in rows]
        first = group.prompts[0].request
        logits = group.cache.forward(inputs, first.sequences[0].adapter_slots)
        flat = [token for row in following for token in row]
        numbers = _logprobs(logits, flat, first.asked.num_prompt_logprobs)
        group.cache.settle()
        entries = [
            self._tokens.logprob(token, value, tuple(map(self._tokens.logprob, ids, values)), rank)
            for token, value, rank, ids, values in zip(flat, *numbers, strict=True)
        ]
        group.take([entries[n * width : (n + 1) * width] for n in range(len(rows))])


class ScoringCache:
    """Keys and values of prompts that are scored together, and the forwards that add to them."""

    def __init__(self, model: Any, bank: LoraBank) -> None:
        self._model = model
        self._bank = bank
        self._entries: list[Any] = make_prompt_cache(model)

    @property
    def can_pick(self) -> bool:
        """Whether rows can be copied and left out."""
        return all(type(entry) is KVCache for entry in self._entries)

    def forward(self, rows: Sequence[Sequence[int]], slots: SlotWeights) -> mx.array:
        """(tokens of all rows, vocab) after each of the next tokens; nothing is computed yet.

        Args:
            rows: Of equal length.
            slots: The adapters of all of them.
        """
        self._bank.route.set([slots] * len(rows), self._bank)
        logits = self._model(mx.array([list(row) for row in rows]), cache=self._entries)
        return mx.flatten(logits[:], 0, 1)

    def settle(self) -> None:
        """Compute what is not yet."""
        mx.eval([entry.state for entry in self._entries])  # pyright: ignore[reportUnknownMemberType]

    def pick(self, rows: Sequence[int], num_tokens: int) -> None:
        """Have these rows from now on, some perhaps more than once, and so many tokens of each."""
        chosen = mx.array(list(rows))
        self._entries = [_cut(entry, chosen, num_tokens) for entry in self._entries]

    def extract(self, row: int | None, num_tokens: int) -> list[Any]:
        """The entries of one row; of the only one if None."""
        if row is None:
            return self._entries
        return [_cut(entry, mx.array([row]), num_tokens) for entry in self._entries]


class _Prompt:
    """One prompt of a group, and what is known of it."""

    def __init__(self, request: EngineRequest, found: list[TokenText]) -> None:
        self.request = request
        self.tokens = list(request.asked.prompt)
        self.head = self.tokens[:-1]
        """What has a token behind it."""
        self.found = found

    @property
    def num_left(self) -> int:
        """Tokens whose logits are wanted still."""
        return len(self.tokens) - len(self.found) if self.request.asked.score_prompt else 0


class _Group:
    """Prompts on their way through the model, all at the same token.

    Rows are filled up on the right: nothing that comes before looks there.
    """

    def __init__(self, prompts: list[_Prompt], cache: ScoringCache) -> None:
        self.prompts = prompts
        self.cache = cache
        """One row while what all prompts begin with is computed; then one for each of them."""
        self.num_computed = 0
        """Tokens of each row."""
        self._num_shared = _num_alike([prompt.tokens for prompt in prompts]) - 1
        """Tokens after which all of them have the same one."""
        self._is_spread = False

    @property
    def num_next(self) -> int:
        """Tokens of a row that can be computed at once."""
        if self.num_computed < self._num_shared:
            return self._num_shared - self.num_computed
        return max(prompt.num_left for prompt in self.prompts)

    def next_rows(self) -> list[_Prompt]:
        """Those that the next chunk has: one that stands for all, or all."""
        if self.num_computed < self._num_shared or len(self.prompts) == 1:
            return self.prompts[:1]
        if not self._is_spread:
            self._is_spread = True
            if self.num_computed:
                self._pick([0] * len(self.prompts))
        return self.prompts

    def take(self, of_rows: list[list[TokenLogprob]]) -> None:
        """Note what was found for each of the rows."""
        self.num_computed += len(of_rows[0])
        for number, prompt in enumerate(self.prompts):
            entries = of_rows[number if len(of_rows) > 1 else 0]
            prompt.found += entries[: prompt.num_left]

    def leave(self, prompts: Sequence[_Prompt]) -> None:
        """These are done, or not wanted any more."""
        keep = [number for number, prompt in enumerate(self.prompts) if prompt not in prompts]
        if self._is_spread and 0 < len(keep) < len(self.prompts):
            self._pick(keep)
        self.prompts = [self.prompts[number] for number in keep]

    def row_of(self, prompt: _Prompt) -> int | None:
        """Of the cache, where one that is done has its keys and values; None for all there are."""
        if len(self.prompts) == 1:
            return None
        return self.prompts.index(prompt) if self._is_spread else 0

    def _pick(self, rows: list[int]) -> None:
        self.cache.pick(rows, self.num_computed)


def _cut(entry: KVCache, rows: mx.array, num_tokens: int) -> KVCache:
    cut = KVCache()
    keys, values, _ = cast(tuple[mx.array, mx.array, int], cast(Any, entry).state)
    cut.state = (keys[rows, :, :num_tokens], values[rows, :, :num_tokens], num_tokens)
    return cut


def _computation(request: EngineRequest) -> object:
    """What must be the same for prompts to be rows of one chunk."""
    asked = request.asked
    return request.sequences[0].version, asked.score_prompt, asked.num_prompt_logprobs


def _num_alike(texts: Sequence[Sequence[int]]) -> int:
    """How many tokens all begin with."""
    shortest = min(map(len, texts))
    return next((n for n in range(shortest) if len({t[n] for t in texts}) > 1), shortest)


def _padded(tokens: list[int], width: int) -> list[int]:
    return tokens + [0] * (width - len(tokens))


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
