"""A request on its way through the engine, and its answers as they grow."""

import math
import time
from collections import deque
from dataclasses import dataclass, field

import msgspec

from verse_server.engine.batch import Drawn
from verse_server.engine.delivery import Mailbox
from verse_server.engine.errors import GenerationFailedError
from verse_server.engine.rows import NotedLogprobs, Row
from verse_server.engine.sampling.grammar import Grammar
from verse_server.engine.text import AnswerText, TokenTexts
from verse_server.engine.types import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    TokenLogprob,
    TokenText,
)


@dataclass(eq=False)
class Job:
    """A request, and where its events go."""

    request: GenerationRequest
    mailbox: Mailbox
    digests: tuple[str, ...]
    stop_tokens: tuple[int, ...]
    stop_strings: tuple[str, ...]
    seconds: float = math.inf
    """It may take, from now on, waiting included."""
    queued_at: float = field(default_factory=time.monotonic)
    grammar: Grammar | None = None
    """What the answers must follow."""
    answers: list["Answer"] = field(default_factory=list["Answer"])
    """Those still being written; empty before the job is admitted and after it is done."""

    def is_late(self, now: float) -> bool:
        """Whether its time is over; `now` on the monotonic clock."""
        return now - self.queued_at > self.seconds


class Answer:
    """One answer of a job: its row, its text, and what was not sent yet."""

    def __init__(self, job: Job, row: Row, text: AnswerText, tokens: TokenTexts) -> None:
        self.job = job
        self.row = row
        self._text = text
        self._tokens = tokens
        self._num_tokens = 0
        self._noted: deque[TokenLogprob] = deque()
        """Of tokens whose text may still turn out to be a part of a stop string."""
        self._num_released = 0
        self._logprobs: list[TokenLogprob] = []
        self._held: list[str] = []
        """What goes out with the next chunk."""
        self._has_begun = False

    def begin(self, scored_prompt: tuple[TokenText, ...]) -> GenerationChunk:
        """The chunk that goes before all tokens; the only one if none are wanted.

        Raises:
            GenerationFailedError: the model's arithmetic overflowed.
        """
        logprobs = [token.logprob for token in scored_prompt if isinstance(token, TokenLogprob)]
        if not all(map(math.isfinite, logprobs)):
            raise self._overflow()
        reason = None if self.job.request.max_tokens else "length"
        return msgspec.structs.replace(self._chunk("", reason), scored_prompt=scored_prompt)

    def take(self, drawn: Drawn) -> GenerationChunk | None:
        """Take one token in; returns what there is to send, with a finish reason at the end.

        An end token is counted but not written.

        Raises:
            GenerationFailedError: the token was drawn from what is no distribution, or the grammar
                reached one of its limits.
        """
        self._num_tokens += 1
        step, position = self.row.drawn.popleft()
        if not step.is_finite(position):
            raise self._overflow()
        self._check_matcher()
        self._note(drawn)
        reason: FinishReason | None = drawn.finish_reason
        text, stopped = ("", False) if reason == "stop" else self._text.push(drawn.token)
        matcher = self.row.matcher
        if not stopped and matcher is not None and matcher.is_complete:
            reason = "stop"  # it has moved past this token already
        if not stopped and reason is not None:
            rest, stopped = self._text.finish()
            text += rest
        if stopped:
            reason = "stop"
        self._release(all_of_them=reason is not None and not stopped)
        if reason is None and self._has_begun and not self.job.request.streamed:
            self._held.append(text)
            return None
        return self._chunk(text, reason) if text or reason else None

    def _check_matcher(self) -> None:
        matcher = self.row.matcher
        if matcher is not None and matcher.failure is not None:
            raise GenerationFailedError(
                f"The answer could not be held to its schema ({matcher.failure}); "
                "simplify the schema."
            )

    def _note(self, drawn: Drawn) -> None:
        """Keep the log-probabilities of a token, if they were asked for."""
        if not self.row.noted:
            return
        noted = self.row.noted.popleft()
        # Who sums up log-probabilities counts on an entry for every token drawn, the end included.
        if drawn.finish_reason != "stop" or self.job.request.score_prompt:
            self._noted.append(self._logprob(drawn.token, noted))

    def _release(self, *, all_of_them: bool) -> None:
        """Let entries go out with the next chunk: those of tokens that begin in the text sent."""
        num_ready = len(self._noted)
        if not all_of_them:
            num_ready = min(num_ready, self._text.num_begun - self._num_released)
        self._num_released += num_ready
        self._logprobs += [self._noted.popleft() for _ in range(num_ready)]

    def _overflow(self) -> GenerationFailedError:
        return GenerationFailedError(
            f"The numbers of {self.job.request.target.model!r} overflow on this prompt; "
            "use another adapter or a smaller strength."
        )

    def _chunk(self, text: str, reason: FinishReason | None) -> GenerationChunk:
        self._has_begun = True
        texts, self._held = [*self._held, text], []
        logprobs, self._logprobs = tuple(self._logprobs), []
        return GenerationChunk(
            index=self.row.index,
            text="".join(texts),
            target=self.job.request.target,
            completion_tokens=self._num_tokens,
            cached_tokens=0 if self.job.request.score_prompt else self.row.num_cached,
            logprobs=logprobs,
            finish_reason=reason,
        )

    def _logprob(self, token: int, noted: NotedLogprobs) -> TokenLogprob:
        position, num_top = noted.position, self.row.num_top_logprobs or 0
        ids: list[int] = msgspec.convert(noted.top_ids[position, :num_top].tolist(), list[int])
        values = msgspec.convert(noted.top_logprobs[position, :num_top].tolist(), list[float])
        top = tuple(self._tokens.logprob(i, v) for i, v in zip(ids, values, strict=True))
        entry = self._tokens.logprob(token, float(noted.drawn[position]), top)
        # Put together, the bytes are the text.
        return entry if self._text.shows(token) else msgspec.structs.replace(entry, bytes=())
