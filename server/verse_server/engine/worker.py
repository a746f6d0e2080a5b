"""The one thread that owns mlx: load, admit, step, deliver, retire.

Everything else talks to it through messages. Whatever a request is owed reaches its queue through
its own event loop, one call per step and loop.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar, cast

import mlx.core as mx

from verse.base_model import BaseModel, BaseModelError, load_base_model
from verse_server.config import EngineConfig
from verse_server.engine.adapters.lora import LoraBank
from verse_server.engine.adapters.residency import AdapterResidency
from verse_server.engine.batch import RowBatch
from verse_server.engine.delivery import Outbox
from verse_server.engine.errand import Errand, Owned
from verse_server.engine.errors import (
    AdapterChangedError,
    AdapterIncompatibleError,
    DeadlineExceededError,
    EngineClosedError,
    EngineError,
    GenerationFailedError,
    InvalidRequestError,
    QueueFullError,
)
from verse_server.engine.job import Answer, Job
from verse_server.engine.kv_cache import PrefixCache
from verse_server.engine.memory import kv_budget, limit_memory
from verse_server.engine.rows import Row
from verse_server.engine.scheduler import Pace, WaitingQueue
from verse_server.engine.scoring import PromptScorer
from verse_server.engine.text import AnswerText, Detokenizer, TokenTexts
from verse_server.engine.types import EngineStats, GenerationRequest

T = TypeVar("T")

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.05
"""Between two looks for jobs whose time is over."""

_REFUSALS = (AdapterChangedError, AdapterIncompatibleError, InvalidRequestError)
"""What admitting a request may find; it concerns nobody else."""


@dataclass(frozen=True)
class _Cancel:
    job: Job


class _Close:
    pass


class Worker:
    """Owns the thread. The public methods may be called from any other one."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._max_batch = config.max_batch
        self._prefixes = PrefixCache(config.prefix_cache_bytes)
        self._inbox: queue.SimpleQueue[Job | Errand | _Cancel | _Close] = queue.SimpleQueue()
        self._waiting = WaitingQueue[Job](patience=config.max_batch)
        self._pace = Pace()
        self._running: dict[Row, Answer] = {}
        self._unfinished: set[Job] = set()
        self._errands: list[Errand] = []
        self._outbox = Outbox()
        self._closed = threading.Event()
        self._on_death: list[Callable[[], None]] = []
        self._started: queue.SimpleQueue[BaseModel | BaseException] = queue.SimpleQueue()
        self._next_look = 0.0
        self.dead = False
        self.last_progress = time.monotonic()

    def start(
        self,
        model: str,
        on_progress: Callable[[float], None],
        make_residency: Callable[[LoraBank, BaseModel], AdapterResidency],
    ) -> BaseModel:
        """Start the thread and wait until the base is in memory.

        Raises:
            BaseModelError: it cannot be loaded.
        """
        self._thread = threading.Thread(
            target=self._main, args=(model, on_progress, make_residency), name="mlx", daemon=True
        )
        self._thread.start()
        outcome = self._started.get()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    @property
    def num_running(self) -> int:
        """Rows in the batch."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests that have no row yet, one whose adapter is being loaded included."""
        return sum(not job.answers for job in self._unfinished.copy())

    @property
    def num_resident(self) -> int:
        """Adapters in slots."""
        return self._residency.num_resident

    @property
    def placements(self) -> list[tuple[str, int, int]]:
        """(digest, slot, pins) of every adapter in a slot."""
        return self._residency.placements

    def stats(self) -> EngineStats:
        """See `interface.Engine`."""
        return EngineStats(
            adapter_loads=self._residency.num_loads,
            adapter_evictions=self._residency.num_evictions,
            prefix_cache_bytes=self._prefixes.num_bytes,
            memory_bytes=mx.get_active_memory(),
            peak_memory_bytes=mx.get_peak_memory(),
        )

    def on_death(self, callback: Callable[[], None]) -> None:
        """Call back from the engine thread if it dies."""
        self._on_death.append(callback)

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            QueueFullError: too many wait already.
            EngineClosedError: the thread takes no more.
        """
        num_waiting = self.num_waiting
        if num_waiting >= self._config.max_queue:
            raise QueueFullError(num_waiting, self._pace.seconds_for(num_waiting))
        if not self.num_running and not num_waiting:
            self.last_progress = time.monotonic()  # being idle is no stall
        self._unfinished.add(job)
        self._inbox.put(job)
        # Asked after the put: the thread empties the inbox once it is closed, and not again.
        if self._closed.is_set():
            self._unfinished.discard(job)
            raise EngineClosedError("The engine has stopped; try again when the server is back.")

    def run(self, action: Callable[[Owned], T], digests: tuple[str, ...] = ()) -> "Future[T]":
        """Do something between two steps, once these adapters may be pinned.

        Raises:
            EngineClosedError: the thread takes no more.
        """
        errand = Errand(digests, action)
        self._inbox.put(errand)
        if self._closed.is_set():
            raise EngineClosedError("The engine has stopped; try again when the server is back.")
        return cast("Future[T]", errand.outcome)

    def cancel(self, job: Job) -> None:
        """Forget a job, wherever it is; within one step its row and its pins are free."""
        self._inbox.put(_Cancel(job))

    def close(self) -> None:
        """End the thread; what still runs or waits gets an EngineClosedError."""
        self._inbox.put(_Close())
        self._thread.join()

    def _main(
        self,
        model: str,
        on_progress: Callable[[float], None],
        make_residency: Callable[[LoraBank, BaseModel], AdapterResidency],
    ) -> None:
        try:
            self._base = load_base_model(model, on_progress)
            self._budget = kv_budget(self._config, self._base)
            bank = LoraBank(self._base.model, self._base.dtype)
            self._residency = make_residency(bank, self._base)
            self._tokens = TokenTexts(self._base.tokenizer)
            self._owned = Owned(self._base, bank, self._residency)
            self._batch = RowBatch(
                self._base, bank, self._max_batch, self._prefixes, on_wait=self._outbox.send
            )
            self._scorer = PromptScorer(self._base, bank, self._prefixes)
            limit_memory(self._config)  # after mlx-lm's generator, which sets a wired limit
        except BaseModelError as error:
            self._started.put(error)
            return
        except BaseException as error:  # noqa: BLE001  (raised where `start` waits)
            _log.exception("the engine could not start")
            self._started.put(error)
            return
        self._started.put(self._base)
        self._live()
        mx.clear_streams()  # a process that ends just after this thread would abort otherwise

    def _live(self) -> None:
        try:
            while self._take_messages():
                self._end_late_jobs()
                self._run_errands()
                self._admit()
                self._score()
                self._step()
                # Otherwise the next step sends it, while it computes and needs no Python.
                if not self._batch.is_decoding:
                    self._outbox.send()
                self.last_progress = time.monotonic()
            self._end(EngineClosedError("The server is shutting down; send the request again."))
        except BaseException:  # noqa: BLE001  (whatever it was, nobody may be left waiting)
            _log.exception("the engine thread died")
            self.dead = True
            self._end(GenerationFailedError("The engine failed while writing; the log says why."))
            for callback in self._on_death:
                callback()

    def _end(self, error: EngineError) -> None:
        """Nobody is left waiting, whatever happened."""
        self._closed.set()
        running = dict.fromkeys(answer.job for answer in self._running.values())
        left = [*running, *self._waiting.clear()]
        while not self._inbox.empty():
            message = self._inbox.get()
            if isinstance(message, Job):
                left.append(message)
            elif isinstance(message, Errand):
                self._errands.append(message)
        for errand in self._errands:
            errand.refuse(error)
        for job in left:
            self._outbox.add(job.mailbox, error)
        self._running.clear()
        self._unfinished.clear()
        self._outbox.send()

    def _take_messages(self) -> bool:
        """Handle what has come in; sleeps while there is nothing to do. False ends the loop."""
        idle = self._is_idle()
        while idle or not self._inbox.empty():
            if idle:
                self._outbox.send()  # the step that would have sent it has been called off
            message = self._inbox.get()
            if isinstance(message, _Close):
                return False
            if isinstance(message, _Cancel):
                self._forget(message.job)
            elif isinstance(message, Errand):
                self._errands.append(message)
            else:
                request = message.request
                self._waiting.push(message, request.client, is_batch=request.is_batch)
            idle = self._is_idle()
        return True

    def _is_idle(self) -> bool:
        return not self._running and not self._waiting and not self._errands

    def _run_errands(self) -> None:
        for errand in [e for e in self._errands if self._residency.can_pin(e.digests)]:
            self._errands.remove(errand)
            errand.run(self._owned)

    def _admit(self) -> None:
        while len(self._running) < self._max_batch:
            job = self._waiting.pick(self._can_run, self._num_running_of)
            if job is None:
                return
            try:
                self._start(job)
            except _REFUSALS as error:
                self._unfinished.discard(job)
                self._outbox.add(job.mailbox, error)

    def _can_run(self, job: Job) -> bool:
        """Whether there is room; also for what can never run, so that `_start` says so."""
        request = job.request
        if request.n > self._max_batch or not self._budget.holds(_lengths(request)):
            return True
        room = len(self._running) + request.n <= self._max_batch
        running = [_length(answer.job.request) for answer in self._running.values()]
        return (
            room
            and self._budget.holds([*running, *_lengths(request)])
            and self._residency.can_pin(job.digests)
        )

    def _num_running_of(self, client: str) -> int:
        return sum(answer.job.request.client == client for answer in self._running.values())

    def _end_late_jobs(self) -> None:
        """Those whose time is over, waiting or running, are told so; looks now and then."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        for job in [job for job in self._unfinished.copy() if job.is_late(now)]:
            if self._forget(job):
                self._outbox.add(job.mailbox, DeadlineExceededError(job.seconds))

    def _start(self, job: Job) -> None:
        request = job.request
        if request.n > self._max_batch:
            raise InvalidRequestError(
                f"The server writes at most {self._max_batch} answers at once; ask for fewer.",
                param="n",
            )
        if not self._budget.holds(_lengths(request)):
            raise InvalidRequestError(
                f"This machine's memory holds {self._budget.longest(request.n)} tokens of "
                "prompt and answer for such a request; set a smaller 'max_tokens'.",
                param="max_tokens",
            )
        slots = self._residency.pin(request.target.parts)
        version = tuple((part.digest, part.strength) for part in request.target.parts)
        rows = [
            Row(
                request.prompt,
                slots,
                request.sampling,
                version=version,
                index=index,
                num_top_logprobs=request.num_top_logprobs,
                matcher=None if job.grammar is None else job.grammar.matcher(),
            )
            for index in range(request.n)
        ]
        job.answers = [Answer(job, row, self._text_of(job), self._tokens) for row in rows]
        self._running.update(zip(rows, job.answers, strict=True))
        if request.score_prompt or not request.max_tokens:
            self._scorer.add(job)
        else:
            self._batch.add(rows, request.max_tokens, job.stop_tokens)

    def _text_of(self, job: Job) -> AnswerText:
        request = job.request
        detokenizer = cast(Detokenizer, self._base.tokenizer.detokenizer)
        if not request.framed:  # a text goes on: its next word may begin with a space
            for token in self._base.hf_tokenizer.encode("a", add_special_tokens=False):
                detokenizer.add_token(token)
            _ = detokenizer.last_segment
        return AnswerText(
            detokenizer,
            job.stop_strings,
            request.target.prompt_format.answer_prefix if request.framed else "",
            self._base.special_tokens,
            None if request.num_top_logprobs is None else self._tokens.bytes_of,
        )

    def _score(self) -> None:
        """A chunk of a prompt; when it is the last one, the rows join the batch."""
        if not self._scorer.is_busy:
            return
        self._outbox.send()  # what was written so far does not wait for it
        scored = self._scorer.step()
        if scored is None:
            return
        job = scored.job
        try:
            chunks = [answer.begin(scored.prompt) for answer in job.answers]
        except GenerationFailedError as error:
            self._outbox.add(job.mailbox, error)
            self._forget(job)
            return
        for chunk in chunks:
            self._outbox.add(job.mailbox, chunk)
        if job.request.max_tokens:
            rows = [answer.row for answer in job.answers]
            self._batch.add(rows, job.request.max_tokens, job.stop_tokens)
        else:
            for answer in list(job.answers):
                self._retire(answer)

    def _step(self) -> None:
        if not self._running:
            return
        stopped: list[Row] = []
        for drawn in self._batch.step():
            answer = self._running.get(drawn.row)
            if answer is None:  # another answer of its job has just failed
                continue
            try:
                chunk = answer.take(drawn)
            except GenerationFailedError as error:
                self._outbox.add(answer.job.mailbox, error)
                self._forget(answer.job)
                continue
            if chunk is None:
                continue
            self._outbox.add(answer.job.mailbox, chunk)
            if chunk.finish_reason is not None:
                self._retire(answer)
                if drawn.finish_reason is None:  # a stop string: the batch does not know of it
                    stopped.append(drawn.row)
        if stopped:
            self._batch.remove(stopped)

    def _retire(self, answer: Answer) -> None:
        """An answer is done; with the last one the adapters are free."""
        del self._running[answer.row]
        answer.job.answers.remove(answer)
        if not answer.job.answers:
            self._unfinished.discard(answer.job)
            self._pace.note(time.monotonic())
            self._residency.unpin(answer.job.request.target.parts)

    def _forget(self, job: Job) -> bool:
        """Free all a job has; whether it had anything."""
        if job.answers:
            self._scorer.discard(job)
            self._batch.remove([answer.row for answer in job.answers])
            for answer in list(job.answers):
                self._retire(answer)
            return True
        self._unfinished.discard(job)
        return self._waiting.discard(job)


def _length(request: GenerationRequest) -> int:
    """Tokens of one row when it is longest."""
    return len(request.prompt) + request.max_tokens


def _lengths(request: GenerationRequest) -> list[int]:
    return [_length(request)] * request.n
