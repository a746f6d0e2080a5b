"""One answer on its way from a request to tokens and text.

The entries of a batch's cache list are filtered and joined together. `BatchRows` rides there as one
more entry, so which adapter and which random numbers belong to a sequence can never drift from its
keys and values.
"""

import math
import random
import time
from collections import abc, deque
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import mlx.core as mx
import msgspec
import numpy as np
from numpy.typing import NDArray

from verse_server.engine.adapters.lora import SlotWeights
from verse_server.engine.delivery import Mailbox
from verse_server.engine.errors import GenerationFailedError
from verse_server.engine.kv_cache import BatchSlots, Version
from verse_server.engine.sampling.grammar import Grammar, Matcher
from verse_server.engine.text import AnswerText, TokenTexts
from verse_server.engine.types import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    TokenLogprob,
    TokenText,
)


class DrawnLogits:
    """The logits of the tokens that one step drew; whether they are numbers is seen on the host."""

    def __init__(self, logits: mx.array | NDArray[np.float32]) -> None:
        self._logits = logits  # (rows,)

    @cached_property
    def _on_host(self) -> list[float]:
        return cast(list[float], self._logits.tolist())

    def is_finite(self, position: int) -> bool:
        """False if the model's arithmetic overflowed for this row."""
        return math.isfinite(self._on_host[position])


@dataclass(frozen=True)
class StepLogprobs:
    """What was noted in one step for all rows that asked; still on the device.

    Attributes:
        drawn: (rows,) log-probability of the token each row drew.
        top_ids: (rows, k) the likeliest tokens, likeliest first.
        top_logprobs: (rows, k) theirs.
    """

    drawn: mx.array
    top_ids: mx.array
    top_logprobs: mx.array

    @cached_property
    def on_host(self) -> tuple[list[float], list[list[int]], list[list[float]]]:
        """All three. Of a part of an array each row would wait for the forward that runs by now."""
        return (
            cast(list[float], self.drawn.tolist()),
            cast(list[list[int]], self.top_ids.tolist()),
            cast(list[list[float]], self.top_logprobs.tolist()),
        )


@dataclass(frozen=True)
class NotedLogprobs:
    """A row's part of it, by its number among those that asked."""

    step: StepLogprobs
    position: int


class Sequence:
    """One answer under way: a row of the batch from admission to retirement, and its text."""

    def __init__(
        self,
        request: GenerationRequest,
        adapter_slots: SlotWeights,
        text: AnswerText,
        token_texts: TokenTexts,
        *,
        index: int = 0,
        matcher: Matcher | None = None,
        ends: abc.Collection[int] = (),
    ) -> None:
        """Make one.

        Args:
            request: What was asked for.
            adapter_slots: Where its adapters are.
            text: Takes its tokens.
            token_texts: What tokens stand for, in reports of log-probabilities.
            index: Tells the answers to one request apart; with one seed they draw differently.
            matcher: Says which tokens may come next; None allows all.
            ends: Tokens that end it, and are not drawn before `min_tokens`.
        """
        self.request = request
        self.prompt = request.prompt
        self.sampling = request.sampling
        self.num_top_logprobs = request.num_top_logprobs
        self.version: Version = tuple((p.digest, p.strength) for p in request.target.parts)
        self.adapter_slots = adapter_slots
        self.index = index
        self.matcher = matcher
        self.ends = tuple(ends)
        self.num_cached = 0
        """Tokens of the prompt whose keys and values were there already."""
        self.tokens: list[int] = []
        """In the KV cache by now, prompt included; mlx-lm appends to this very list."""
        self.drawn: deque[tuple[DrawnLogits, int]] = deque()
        """Step and place of each token drawn and not yet reported, oldest first."""
        self.noted: deque[NotedLogprobs] = deque()
        """One entry for each token drawn and not yet reported, oldest first."""
        # Its own generator, whatever its neighbours draw. A text: a number would lose its sign.
        seed = None if self.sampling.seed is None else f"{self.sampling.seed}/{index}"
        self._random = random.Random(seed)
        self._text = text
        self._token_texts = token_texts
        self._num_tokens = 0
        self._ids: list[int] = []
        """Of the tokens that go out with the next chunk."""
        self._undecided: deque[TokenLogprob] = deque()
        """Of tokens whose text may still turn out to be a part of a stop string."""
        self._num_decided = 0
        self._logprobs: list[TokenLogprob] = []
        self._held: list[str] = []
        """What goes out with the next chunk."""
        self._is_announced = False
        """Whether a chunk has gone out."""

    @cached_property
    def bias(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Token ids, and what is added to the logit of each; put together once for all steps."""
        bias = self.sampling.logit_bias
        count = len(bias)  # told, it is half the work
        return np.fromiter(bias, np.int64, count), np.fromiter(bias.values(), np.float32, count)

    @property
    def has_begun(self) -> bool:
        """Whether the token in flight is one of the answer, and not the prompt's last."""
        return len(self.tokens) >= len(self.prompt)

    @property
    def may_end(self) -> bool:
        """Whether the next token may be one that ends the answer."""
        num_drawn = len(self.tokens) - len(self.prompt) + 1
        return num_drawn >= self.request.min_tokens

    def next_key(self) -> list[int]:
        """A fresh key for one draw: two 32-bit words, as `mx.random.key` holds them."""
        bits = self._random.getrandbits(64)
        return [bits >> 32, bits & 0xFFFFFFFF]

    def next_uniform(self) -> float:
        """A fresh number in [0, 1) for one draw on the host."""
        return self._random.random()

    def next_uniforms(self, count: int) -> NDArray[np.float64]:
        """(count,) fresh numbers in (0, 1)."""
        words = np.frombuffer(self._random.randbytes(4 * count), "<u4")
        return (words + 0.5) * 2.0**-32

    def begin(self, scored_prompt: tuple[TokenText, ...]) -> GenerationChunk:
        """The chunk that goes before all tokens; the only one if none are wanted.

        Raises:
            GenerationFailedError: the model's arithmetic overflowed.
        """
        logprobs = [token.logprob for token in scored_prompt if isinstance(token, TokenLogprob)]
        if not all(map(math.isfinite, logprobs)):
            raise self._overflow()
        reason = None if self.request.max_tokens else "length"
        return msgspec.structs.replace(self._chunk("", reason), scored_prompt=scored_prompt)

    def take(self, token: int, finish_reason: FinishReason | None) -> GenerationChunk | None:
        """Take one token in; returns what there is to send, with a finish reason at the end.

        An end token is counted but not written.

        Raises:
            GenerationFailedError: the token was drawn from what is no distribution, or the grammar
                reached one of its limits.
        """
        self._num_tokens += 1
        self._ids.append(token)
        step, position = self.drawn.popleft()
        if not step.is_finite(position):
            raise self._overflow()
        self._check_matcher()
        self._note(token, finish_reason)
        reason = finish_reason
        text, stopped = ("", False) if reason == "stop" else self._text.push(token)
        matcher = self.matcher
        if not stopped and matcher is not None and matcher.is_complete:
            reason = "stop"  # it has moved past this token already
        if not stopped and reason is not None:
            rest, stopped = self._text.finish()
            text += rest
        if stopped:
            reason = "stop"
        self._release(all_of_them=reason is not None and not stopped)
        if reason is None and self._is_announced and not self.request.streamed:
            self._held.append(text)
            return None
        return self._chunk(text, reason) if text or reason else None

    def _check_matcher(self) -> None:
        matcher = self.matcher
        if matcher is not None and matcher.failure is not None:
            raise GenerationFailedError(
                f"The answer could not be held to its schema or grammar ({matcher.failure}); "
                "simplify it."
            )

    def _note(self, token: int, finish_reason: FinishReason | None) -> None:
        """Keep the log-probabilities of a token, if they were asked for."""
        if not self.noted:
            return
        noted = self.noted.popleft()
        # Who sums up log-probabilities counts on an entry for every token drawn, the end included.
        if finish_reason != "stop" or self.request.report_end:
            self._undecided.append(self._logprob(token, noted))

    def _release(self, *, all_of_them: bool) -> None:
        """Let entries go out with the next chunk: those of tokens that begin in the text sent."""
        num_ready = len(self._undecided)
        if num_ready and not all_of_them:
            num_ready = min(num_ready, self._text.num_begun - self._num_decided)
        self._num_decided += num_ready
        self._logprobs += [self._undecided.popleft() for _ in range(num_ready)]

    def _overflow(self) -> GenerationFailedError:
        return GenerationFailedError(
            f"The numbers of {self.request.target.model!r} overflow on this prompt; "
            "use another adapter or a smaller strength."
        )

    def _chunk(self, text: str, reason: FinishReason | None) -> GenerationChunk:
        self._is_announced = True
        texts, self._held = [*self._held, text], []
        logprobs, self._logprobs = tuple(self._logprobs), []
        ids, self._ids = tuple(self._ids), []
        return GenerationChunk(
            index=self.index,
            text="".join(texts),
            target=self.request.target,
            completion_tokens=self._num_tokens,
            token_ids=ids,
            cached_tokens=0 if self.request.score_prompt else self.num_cached,
            logprobs=logprobs,
            finish_reason=reason,
        )

    def _logprob(self, token: int, noted: NotedLogprobs) -> TokenLogprob:
        position, num_top = noted.position, self.num_top_logprobs or 0
        of_drawn, top_ids, top_logprobs = noted.step.on_host
        likeliest = zip(top_ids[position][:num_top], top_logprobs[position][:num_top], strict=True)
        top = tuple(self._token_texts.logprob(i, v) for i, v in likeliest)
        entry = self._token_texts.logprob(token, of_drawn[position], top)
        # Put together, the bytes are the text.
        return entry if self._text.shows(token) else msgspec.structs.replace(entry, bytes=())


@dataclass(eq=False)
class EngineRequest:
    """A request inside the engine: what it needs, its sequences, and where their chunks go."""

    asked: GenerationRequest
    mailbox: Mailbox
    digests: tuple[str, ...]
    stop_tokens: tuple[int, ...]
    stop_strings: tuple[str, ...]
    seconds: float = math.inf
    """It may take, from now on, waiting included."""
    queued_at: float = field(default_factory=time.monotonic)
    grammar: Grammar | None = None
    """What the answers must follow."""
    sequences: list[Sequence] = field(default_factory=list[Sequence])
    """Those still being written; empty before it is admitted and after it is done."""

    def is_late(self, now: float) -> bool:
        """Whether its time is over; `now` on the monotonic clock."""
        return now - self.queued_at > self.seconds


class BatchRows:
    """The rows of a batch, in the batch's order, as an entry of its cache list."""

    def __init__(self, rows: list[Sequence], batch_slots: BatchSlots | None = None) -> None:
        """Of one row or more.

        Args:
            rows: In the batch's order.
            batch_slots: Where they are in the other entries' arrays; None if in this order.
        """
        self.rows = rows
        self.batch_slots = batch_slots

    @property
    def adapter_slots(self) -> list[SlotWeights]:
        """Which adapters each row uses, in the order of the batch slots."""
        if self.batch_slots is None:
            return [row.adapter_slots for row in self.rows]
        return [self.rows[index].adapter_slots for index in self.batch_slots.rows]

    @property
    def slots(self) -> list[int]:
        """Of each row, in the batch's order."""
        return list(range(len(self.rows))) if self.batch_slots is None else self.batch_slots.slots

    def by_slot(self, of_rows: mx.array) -> mx.array:
        """Bring what is in the batch's order, by its first axis, into that of the batch slots."""
        if self.batch_slots is None or self.batch_slots.is_in_order:
            return of_rows
        return of_rows[mx.array(self.batch_slots.rows)]

    def by_row(self, of_slots: mx.array) -> mx.array:
        """The other way."""
        if self.batch_slots is None or self.batch_slots.is_in_order:
            return of_slots
        return of_slots[mx.array(self.batch_slots.slots)]

    def extend(self, other: "BatchRows") -> None:
        """The rows of another batch join at the end."""
        self.rows = self.rows + other.rows
        if self.batch_slots and other.batch_slots:
            self.batch_slots.join(other.batch_slots.slots)

    def filter(self, keep: abc.Sequence[int]) -> None:
        """Only these rows stay, in this order."""
        self.rows = [self.rows[index] for index in keep]
        if self.batch_slots:
            self.batch_slots.leave(keep)
