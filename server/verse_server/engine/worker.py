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
from typing import TypeVar, cast

import mlx.core as mx

from verse import UserError
from verse.base_model import BaseModel
from verse.machines.ranks import Ranks
from verse_server.config import EngineConfig
from verse_server.engine.adapters.lora import LoraBank
from verse_server.engine.adapters.residency import AdapterResidency
from verse_server.engine.delivery import Outbox
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
from verse_server.engine.leading import Leader, load_base
from verse_server.engine.memory import give_memory_back, limit_memory, set_up_heap
from verse_server.engine.scheduler import RequestRate
from verse_server.engine.scoring import Scored
from verse_server.engine.sequence import EngineRequest, Sequence
from verse_server.engine.state import (
    CancelRequest,
    EngineMessage,
    EngineResources,
    EngineState,
    EngineTask,
    FileRead,
    StopEngine,
)
from verse_server.engine.types import EngineStats

T = TypeVar("T")

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.05
"""Between two looks for requests whose time is over."""

_IDLE_SECONDS = 5.0
"""With nothing to do, until memory that is kept for reuse is given back."""
_GATHER_SECONDS = 0.002
"""What comes to an idle engine waits for the next request: those sent together begin together."""
_GATHER_LONGEST_SECONDS = 0.024
"""All in all."""
_BLAME_SECONDS = 3.0
"""For the news that a rank is gone; only who watches them can tell."""

_REFUSALS = (AdapterChangedError, AdapterIncompatibleError, InvalidRequestError)
"""What admitting a request may find; it concerns nobody else."""


class Worker:
    """Owns the thread. The public methods may be called from any other one, once it has started."""

    _state: EngineState

    def __init__(self, config: EngineConfig, ranks: Ranks | None = None) -> None:
        """Make one; `ranks` are all of which this is the first, if the model is shared."""
        self._config = config
        self._leader = None if ranks is None else Leader(config, ranks)
        self._num_ranks = 1 if ranks is None else ranks.size
        self._inbox: queue.SimpleQueue[EngineMessage] = queue.SimpleQueue()
        self._rate = RequestRate()
        self._unfinished: set[EngineRequest] = set()
        """Submitted, and neither done nor given up."""
        self._closed, self._abandoned = threading.Event(), threading.Event()
        self._on_death: list[Callable[[], None]] = []
        self._started: queue.SimpleQueue[BaseModel | BaseException] = queue.SimpleQueue()
        self._next_look = 0.0
        self._gather_until = 0.0
        """While what has come to an idle engine waits for more."""
        self._is_busy = False
        """Whether the last pass may have changed what the next one can do."""
        self._is_rested = False
        """Whether memory has been given back since the last message."""
        self.dead = False
        self.last_progress = time.monotonic()

    def start(
        self,
        on_progress: Callable[[float], None],
        make_residency: Callable[[LoraBank, BaseModel], AdapterResidency],
    ) -> BaseModel:
        """Start the thread and wait until the base is in memory.

        Raises:
            UserError: it cannot be loaded.
        """
        self._thread = threading.Thread(
            target=self._main, args=(on_progress, make_residency), name="mlx", daemon=True
        )
        self._thread.start()
        outcome = self._started.get()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    @property
    def num_running(self) -> int:
        """Sequences in the batch."""
        return len(self._state.running)

    @property
    def num_waiting(self) -> int:
        """Requests that have no sequence yet, one whose adapter is being loaded included."""
        # Whoever is done leaves both, one after the other.
        return max(0, len(self._unfinished) - self._state.num_admitted)

    @property
    def num_resident(self) -> int:
        """Adapters in slots."""
        return self._state.resources.residency.num_resident

    @property
    def placements(self) -> list[tuple[str, int, int]]:
        """(digest, slot, pins) of every adapter in a slot."""
        return self._state.resources.residency.placements

    def stats(self) -> EngineStats:
        """See `interface.Engine`."""
        residency = self._state.resources.residency
        return EngineStats(
            adapter_loads=residency.num_loads,
            adapter_evictions=residency.num_evictions,
            adapter_bytes=residency.num_bytes,
            prefix_cache_bytes=self._state.prefixes.num_bytes,
            memory_bytes=mx.get_active_memory(),
            peak_memory_bytes=mx.get_peak_memory(),
            reusable_memory_bytes=mx.get_cache_memory(),
        )

    def on_death(self, callback: Callable[[], None]) -> None:
        """Call back from the engine thread if it dies."""
        self._on_death.append(callback)

    def submit(self, request: EngineRequest) -> None:
        """Queue a request.

        Raises:
            QueueFullError: too many wait already.
            EngineClosedError: the thread takes no more.
        """
        num_waiting = self.num_waiting
        if num_waiting >= self._config.max_queue:
            raise QueueFullError(num_waiting, self._rate.seconds_for(num_waiting))
        if not self.num_running and not num_waiting:
            self.last_progress = time.monotonic()  # being idle is no stall
        self._unfinished.add(request)
        self._inbox.put(request)
        # Asked after the put: the thread empties the inbox once it is closed, and not again.
        if self._closed.is_set():
            self._unfinished.discard(request)
            raise EngineClosedError("The engine has stopped; try again when the server is back.")

    def run(
        self, action: Callable[[EngineResources], T], digests: tuple[str, ...] = ()
    ) -> "Future[T]":
        """Do something between two steps, once these adapters may be pinned.

        Raises:
            EngineClosedError: the thread takes no more.
        """
        task = EngineTask(digests, action)
        self._inbox.put(task)
        if self._closed.is_set():
            raise EngineClosedError("The engine has stopped; try again when the server is back.")
        return cast("Future[T]", task.outcome)

    def cancel(self, request: EngineRequest) -> None:
        """Forget a request, wherever it is; within one step its sequences and its pins are free."""
        self._inbox.put(CancelRequest(request))

    def abandon(self, error: EngineError) -> None:
        """Leave nobody waiting for a thread that may wait for ever inside mlx; from any other."""
        if self.dead:
            return
        self.dead = True
        self._closed.set()
        self._abandoned.set()
        outbox = Outbox()
        for request in self._unfinished.copy():
            outbox.add(request.mailbox, error)
        outbox.send()
        self._refuse_tasks(error)
        for callback in self._on_death:
            callback()

    def close(self) -> None:
        """End the thread; what still runs or waits gets an EngineClosedError."""
        self._inbox.put(StopEngine())
        self._thread.join()

    def _main(
        self,
        on_progress: Callable[[float], None],
        make_residency: Callable[[LoraBank, BaseModel], AdapterResidency],
    ) -> None:
        try:
            set_up_heap()
            base, bank = load_base(self._config, self._leader, on_progress)
            residency = make_residency(bank, base)
            residency.on_read = lambda: self._inbox.put(FileRead())
            resources = EngineResources(base, bank, residency, self._leader)
            self._state = EngineState.of(self._config, resources)
            limit_memory(self._config, is_packed=base.is_packed, num_ranks=self._num_ranks)
        except UserError as error:
            mx.clear_streams()  # as below
            self._started.put(error)
            return
        except BaseException as error:  # noqa: BLE001  (raised where `start` waits)
            _log.exception("the engine could not start")
            mx.clear_streams()
            self._started.put(error)
            return
        self._started.put(base)
        self._live()
        mx.clear_streams()  # a process that ends just after this thread would abort otherwise

    def _live(self) -> None:
        pacing = self._state.pacing
        try:
            while self._take_messages():
                started = time.monotonic()
                self._state.begin_pass()
                self._end_late_requests()
                self._load()
                self._run_tasks()
                self._admit()
                self._score()
                self._step()
                # Otherwise the next step sends it, while it computes and needs no Python.
                if not self._state.batch.num_decoding:
                    self._state.outbox.send()
                self.last_progress = time.monotonic()
                pacing.end(self.last_progress - started)
            if self._leader is not None:
                self._leader.close()
            self._end(EngineClosedError("The server is shutting down; send the request again."))
        except BaseException:  # noqa: BLE001  (whatever it was, nobody may be left waiting)
            # mlx breaks off when a rank is gone, and who watches them says so.
            if self._leader is not None and self._abandoned.wait(_BLAME_SECONDS):
                return
            _log.exception("the engine thread died")
            self.dead = True
            self._end(GenerationFailedError("The engine failed while writing; the log says why."))
            for callback in self._on_death:
                callback()

    def _end(self, error: EngineError) -> None:
        """Nobody is left waiting, whatever happened."""
        self._closed.set()
        for request in (*self._state.clear(), *self._refuse_tasks(error)):
            self._state.outbox.add(request.mailbox, error)
        self._unfinished.clear()
        self._state.outbox.send()

    def _refuse_tasks(self, error: EngineError) -> list[EngineRequest]:
        """Those of the inbox, too; the requests that were there."""
        messages = [self._inbox.get() for _ in range(self._inbox.qsize())]
        tasks = [message for message in messages if isinstance(message, EngineTask)]
        for task in (*self._state.tasks, *tasks):
            task.refuse(error)
        return [message for message in messages if isinstance(message, EngineRequest)]

    def _take_messages(self) -> bool:
        """Handle what has come in; sleeps while there is nothing to do. False ends the loop."""
        state = self._state
        gone: list[Sequence] = []
        while True:
            if gone and self._inbox.empty():
                # All that left together at once: each removal copies what the others have.
                state.batch.remove(gone)
                gone.clear()
            try:
                message = self._inbox.get(timeout=self._rest_seconds())
            except queue.Empty:
                if state.is_idle and not self._is_rested:
                    give_memory_back()
                    self._is_rested = True
                    continue
                self._is_busy, self._gather_until = state.has_work, 0.0
                return True
            self._is_busy, self._is_rested = True, False
            if isinstance(message, StopEngine):
                return False
            if isinstance(message, CancelRequest):
                gone += message.request.sequences
                self._forget(message.request)
            elif isinstance(message, EngineTask):
                state.tasks.append(message)
            elif isinstance(message, EngineRequest):
                if state.is_idle:
                    self._gather_until = time.monotonic() + _GATHER_LONGEST_SECONDS
                    state.gate.shut(time.monotonic(), state.resources.residency.num_loads)
                state.wait(message)

    def _rest_seconds(self) -> float | None:
        """How long to wait for a message: not at all while there is work; None for ever."""
        state = self._state
        if state.is_idle:
            state.outbox.send()  # the step that would have sent it has been called off
            return None if self._is_rested else _IDLE_SECONDS
        if state.waiting and not state.running:
            left = self._gather_until - time.monotonic()
            if left > 0:
                return min(left, _GATHER_SECONDS)
        # All who wait do so for a file, and whoever reads it will say so.
        return 0.0 if self._is_busy or state.has_work else _LOOK_SECONDS

    def _load(self) -> None:
        """Go on with adapters on their way into slots, for a part of a step."""
        state, residency = self._state, self._state.resources.residency
        seconds = state.pacing.loading_seconds
        if not residency.has_work or not seconds:
            residency.load(0.0)
            return
        state.outbox.send()  # what was written so far does not wait for it
        # What is computed now is waited for: only then are stacks written in place, and the time
        # that loading takes is its own.
        mx.synchronize()
        started = time.monotonic()
        residency.load(seconds)
        state.pacing.spend(time.monotonic() - started)

    def _run_tasks(self) -> None:
        state = self._state
        residency = state.resources.residency
        for task in list(state.tasks):
            if residency.prepare(task.digests):
                state.tasks.remove(task)
                task.run(state.resources)

    def _admit(self) -> None:
        state = self._state
        end = time.monotonic() + state.pacing.admission_seconds
        while len(state.running) < state.max_batch or state.resources.residency.has_failures:
            request = state.waiting.pick(state.can_run, state.num_running_of, state.is_loading)
            if request is None:
                return
            try:
                state.admit(request)
            except _REFUSALS as error:
                self._unfinished.discard(request)
                state.outbox.add(request.mailbox, error)
            if time.monotonic() > end:
                return

    def _end_late_requests(self) -> None:
        """Those whose time is over, waiting or running, are told so; looks now and then."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        for request in [r for r in self._unfinished.copy() if r.is_late(now)]:
            self._state.batch.remove(request.sequences)
            if self._forget(request):
                self._state.outbox.add(request.mailbox, DeadlineExceededError(request.seconds))

    def _score(self) -> None:
        """A chunk of prompts; of one that is done with it, the sequences join the batch."""
        state = self._state
        if not state.scorer.is_busy or state.pacing.is_owed:
            return
        state.outbox.send()  # what was written so far does not wait for it
        if state.pacing.is_bound:
            mx.synchronize()  # the time that scoring takes is its own
        started = time.monotonic()
        done = state.scorer.step()
        state.pacing.spend(time.monotonic() - started)
        for scored in done:
            self._begin_scored(scored)

    def _begin_scored(self, scored: Scored) -> None:
        state, request = self._state, scored.request
        try:
            chunks = [sequence.begin(scored.prompt) for sequence in request.sequences]
        except GenerationFailedError as error:
            self._fail(request, error)
            return
        for chunk in chunks:
            state.outbox.add(request.mailbox, chunk)
        if request.asked.max_tokens:
            state.begin(request)
        else:
            for sequence in list(request.sequences):
                self._retire(sequence)

    def _step(self) -> None:
        state = self._state
        if not state.running or state.is_held(time.monotonic()):
            return
        stopped: list[Sequence] = []
        for drawn in state.batch.step():
            sequence, request = drawn.sequence, state.running.get(drawn.sequence)
            if request is None:  # another sequence of its request has just failed
                continue
            try:
                chunk = sequence.take(drawn.token, drawn.finish_reason)
            except GenerationFailedError as error:
                self._fail(request, error)
                continue
            if chunk is None:
                continue
            state.outbox.add(request.mailbox, chunk)
            if chunk.finish_reason is not None:
                self._retire(sequence)
                if drawn.finish_reason is None:  # a stop string: the batch does not know of it
                    stopped.append(sequence)
        if stopped:
            state.batch.remove(stopped)

    def _retire(self, sequence: Sequence) -> None:
        request = self._state.running[sequence]
        if self._state.retire(sequence):
            self._unfinished.discard(request)
            self._rate.note(time.monotonic())

    def _fail(self, request: EngineRequest, error: EngineError) -> None:
        self._state.outbox.add(request.mailbox, error)
        self._state.batch.remove(request.sequences)
        self._forget(request)

    def _forget(self, request: EngineRequest) -> bool:
        """Free all a request has but its rows in the batch; whether it had any."""
        if request.sequences:
            self._state.scorer.discard(request)
            for sequence in list(request.sequences):
                self._retire(sequence)
            return True
        self._unfinished.discard(request)
        return self._state.waiting.discard(request)
