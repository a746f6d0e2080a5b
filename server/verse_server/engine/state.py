"""What the engine thread holds, and what it does for others between two steps."""

from collections import abc
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import mlx.core as mx

from verse.base_model import BaseModel
from verse_server.config import EngineConfig
from verse_server.engine.adapters.lora import LoraBank, SlotWeights
from verse_server.engine.adapters.residency import AdapterResidency
from verse_server.engine.batch import Batch
from verse_server.engine.delivery import Outbox
from verse_server.engine.errors import InvalidRequestError
from verse_server.engine.forward import next_logits
from verse_server.engine.kv_cache import PrefixCache
from verse_server.engine.leading import Leader, LeadingBatch, LeadingScorer
from verse_server.engine.memory import KvBudget, kv_budget, prefix_cache_bytes
from verse_server.engine.pacing import Pacing
from verse_server.engine.scheduler import LoadGate, WaitingQueue
from verse_server.engine.scoring import PromptScorer
from verse_server.engine.sequence import EngineRequest, Sequence
from verse_server.engine.text import AnswerText, Detokenizer, TokenTexts
from verse_server.engine.types import GenerationRequest


@dataclass(frozen=True)
class EngineResources:
    """What no other thread may touch."""

    base: BaseModel
    bank: LoraBank
    residency: AdapterResidency
    leader: Leader | None = None
    """Of the other ranks, where there are any."""

    def next_logits(self, rows: Collection[SlotWeights], prompt: abc.Sequence[int]) -> mx.array:
        """See `forward.next_logits`."""
        if self.leader is not None:
            self.leader.probe(rows, prompt)
        return next_logits(self.base.model, self.bank, [*rows], prompt)


@dataclass(frozen=True, eq=False)
class EngineTask:
    """Something to be done once these adapters may be pinned, and where its outcome goes."""

    digests: tuple[str, ...]
    action: Callable[[EngineResources], Any]
    outcome: "Future[Any]" = field(default_factory=Future[Any])

    def run(self, resources: EngineResources) -> None:
        """Do it, unless nobody waits for it any more. Raises nothing."""
        if not self.outcome.set_running_or_notify_cancel():
            return
        try:
            self.outcome.set_result(self.action(resources))
        except Exception as error:  # noqa: BLE001  (raised where the outcome is awaited)
            self.outcome.set_exception(error)

    def refuse(self, error: Exception) -> None:
        """It will never be done."""
        if self.outcome.set_running_or_notify_cancel():
            self.outcome.set_exception(error)


@dataclass(frozen=True)
class CancelRequest:
    """Nobody waits for it any more."""

    request: EngineRequest


class StopEngine:
    """No more messages come."""


class FileRead:
    """There is something to load."""


EngineMessage = EngineRequest | EngineTask | CancelRequest | StopEngine | FileRead
"""To the engine thread."""


@dataclass(kw_only=True)
class EngineState:
    """Everything the engine thread works on. No other thread changes it."""

    resources: EngineResources
    budget: KvBudget
    max_batch: int
    prefixes: PrefixCache
    token_texts: TokenTexts
    pacing: Pacing
    batch: Batch
    scorer: PromptScorer
    outbox: Outbox
    waiting: WaitingQueue[EngineRequest]
    running: dict[Sequence, EngineRequest] = field(default_factory=dict[Sequence, EngineRequest])
    num_admitted: int = 0
    """Requests that have sequences."""
    tasks: list[EngineTask] = field(default_factory=list[EngineTask])
    gate: LoadGate = field(default_factory=LoadGate)

    @classmethod
    def of(cls, config: EngineConfig, resources: EngineResources) -> "EngineState":
        """An empty one."""
        base, bank = resources.base, resources.bank
        budget = kv_budget(config, base, resources.residency.max_bytes or 0)
        prefix_bytes = prefix_cache_bytes(config, budget.bytes_per_token)
        prefixes = PrefixCache(prefix_bytes)
        outbox = Outbox()
        pacing = Pacing()
        make_batch, make_scorer = Batch, PromptScorer
        if (lead := resources.leader) is not None:
            lead.begin(prefix_bytes, budget.bytes_per_token)
            make_batch = partial(LeadingBatch, send=lead.send)
            make_scorer = partial(LeadingScorer, send=lead.send)
        return cls(
            resources=resources,
            budget=budget,
            max_batch=config.max_batch,
            prefixes=prefixes,
            token_texts=TokenTexts(base.tokenizer),
            pacing=pacing,
            batch=make_batch(base, bank, config.max_batch, prefixes, outbox.send, pacing),
            scorer=make_scorer(base, bank, prefixes),
            outbox=outbox,
            waiting=WaitingQueue[EngineRequest](max_skips=config.max_batch),
        )

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do before the next message."""
        return not self.running and not self.waiting and not self.tasks and not self.has_work

    @property
    def has_work(self) -> bool:
        """Whether the next pass will get something done for certain."""
        has_rows = bool(self.running) and not self.gate.is_shut
        return has_rows or self.resources.residency.has_work

    def is_held(self, now: float) -> bool:
        """Whether the rows that could begin wait for who came along, see `LoadGate`."""
        if not self.gate.is_shut:
            return False
        is_loading = any(map(self.is_loading, self.waiting))
        return self.gate.holds(now, self.resources.residency.num_loads, is_loading=is_loading)

    @property
    def is_crowded(self) -> bool:
        """Whether more requests wait than would fill the batch."""
        return len(self.waiting) > self.max_batch

    def begin_pass(self) -> None:
        """Tell `pacing` for whom this pass of the thread is."""
        batch = self.batch
        self.pacing.begin(
            batch.num_decoding, is_crowded=self.is_crowded, has_prompts=batch.has_prompts
        )

    def wait(self, request: EngineRequest) -> None:
        """Queue one."""
        self.waiting.push(request, request.asked.client, is_batch=request.asked.is_batch)

    def num_running_of(self, client: str) -> int:
        """Sequences that a client has in the batch."""
        return sum(request.asked.client == client for request in self.running.values())

    def can_run(self, request: EngineRequest) -> bool:
        """Whether there is room; also for what can never run, so that `admit` says so.

        Adapters that are missing begin to be loaded.
        """
        asked, residency = request.asked, self.resources.residency
        if asked.n > self.max_batch or not self.budget.holds(_lengths(asked)):
            return True
        if residency.has_failures and residency.prepare(request.digests):
            return True
        running = [_length(other.asked) for other in self.running.values()]
        return (
            len(self.running) + asked.n <= self.max_batch
            and self.budget.holds([*running, *_lengths(asked)])
            and residency.prepare(request.digests)
        )

    def is_loading(self, request: EngineRequest) -> bool:
        """Whether one of its adapters is on its way from the disk."""
        return self.resources.residency.is_loading(request.digests)

    def admit(self, request: EngineRequest) -> None:
        """Pin its adapters and let its sequences into the batch, or its prompt be scored first.

        Raises:
            InvalidRequestError: it asks for more than there is room for at all.
            EngineError: as `AdapterResidency.pin`.
        """
        asked = request.asked
        if asked.n > self.max_batch:
            raise InvalidRequestError(
                f"The server writes at most {self.max_batch} answers at once; ask for fewer.",
                param="n",
            )
        if not self.budget.holds(_lengths(asked)):
            raise InvalidRequestError(
                f"This machine's memory holds {self.budget.longest(asked.n)} tokens of "
                "prompt and answer for such a request; set a smaller 'max_tokens'.",
                param="max_tokens",
            )
        slots = self.resources.residency.pin(asked.target.parts)
        request.sequences = [
            Sequence(
                asked,
                slots,
                self._text_of(request),
                self.token_texts,
                index=index,
                matcher=None if request.grammar is None else request.grammar.matcher(),
                ends=self._ends_of(request),
            )
            for index in range(asked.n)
        ]
        self.running.update(dict.fromkeys(request.sequences, request))
        self.num_admitted += 1
        if asked.score_prompt or not asked.max_tokens:
            self.scorer.add(request)
        else:
            self.begin(request)

    def begin(self, request: EngineRequest) -> None:
        """Let its sequences into the batch."""
        asked = request.asked
        self.batch.add(
            request.sequences,
            asked.max_tokens,
            request.stop_tokens,
            ignore_eos=asked.ignore_eos,
        )

    def retire(self, sequence: Sequence) -> bool:
        """A sequence is done, and with the last one its request; whether this was it."""
        request = self.running.pop(sequence)
        request.sequences.remove(sequence)
        if request.sequences:
            return False
        self.num_admitted -= 1
        self.resources.residency.unpin(request.asked.target.parts)
        return True

    def clear(self) -> list[EngineRequest]:
        """Forget all requests; they are returned."""
        left = [*dict.fromkeys(self.running.values()), *self.waiting.clear()]
        self.running.clear()
        self.num_admitted = 0
        return left

    def _ends_of(self, request: EngineRequest) -> tuple[int, ...]:
        own = () if request.asked.ignore_eos else self.resources.base.end_tokens
        return (*own, *request.stop_tokens)

    def _text_of(self, request: EngineRequest) -> AnswerText:
        asked, base = request.asked, self.resources.base
        detokenizer = cast(Detokenizer, base.tokenizer.detokenizer)
        goes_on = asked.continues or not asked.framed
        if goes_on:  # its next word may begin with a space
            for token in base.hf_tokenizer.encode("a", add_special_tokens=False):
                detokenizer.add_token(token)
            _ = detokenizer.last_segment
        return AnswerText(
            detokenizer,
            request.stop_strings,
            "" if goes_on else asked.target.prompt_format.answer_prefix,
            base.special_tokens,
            None if asked.num_top_logprobs is None else self.token_texts.bytes_of,
            asked.min_tokens,
        )


def _length(asked: GenerationRequest) -> int:
    """Tokens of one sequence when it is longest."""
    return len(asked.prompt) + asked.max_tokens


def _lengths(asked: GenerationRequest) -> list[int]:
    return [_length(asked)] * asked.n
