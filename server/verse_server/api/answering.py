"""Answers on their way from the engine to the wire, for chat and for completions alike.

The chunks of one request, or of several run together, become the records that a `Reply` sends: one
for an answer as a whole, one for each piece of a stream.
"""

import codecs
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from itertools import accumulate
from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from verse_server.api.monitoring import metered
from verse_server.api.request_log import random_digits
from verse_server.api.streaming import merged
from verse_server.engine.errors import GenerationFailedError
from verse_server.engine.interface import Engine
from verse_server.engine.types import (
    BaseInfo,
    GenerationChunk,
    GenerationRequest,
    Target,
    TokenLogprob,
    TokenText,
)
from verse_server.protocol.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChatCompletionTokenLogprob,
    Choice,
    ChoiceDelta,
    ChoiceLogprobs,
    ChunkChoice,
    TopLogprob,
)
from verse_server.protocol.completions import Completion, CompletionChoice, CompletionLogprobs
from verse_server.protocol.shared import (
    ChatCompletionStreamOptions,
    CompletionUsage,
    PromptLogprob,
    PromptLogprobs,
    PromptTokensDetails,
    SamplingRequest,
)

_FINGERPRINT_CHARS = 8
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer decodes bytes to that are no character; a text may hold it as well."""

Record = Callable[..., msgspec.Struct]


class _Answers(ABC):
    """The answers to one request as records of the wire; made for one pass over its chunks."""

    _id_prefix: ClassVar[str]
    _whole: ClassVar[Record]
    """What holds all choices."""
    _piece: ClassVar[Record]
    """What holds one choice of a stream, or none and the usage."""

    def __init__(self, rows: Sequence[GenerationRequest], engine: Engine) -> None:
        self._rows = rows
        self._engine = engine
        self._num_answers = sum(row.n for row in rows)
        self._with_logprobs = rows[0].num_top_logprobs is not None
        self._return_ids = False
        self._num_prompt_logprobs: int | None = None
        self._last: dict[int, GenerationChunk] = {}
        """The newest chunk of each answer."""

    def records(self, request: SamplingRequest) -> AsyncGenerator[msgspec.Struct, None]:
        """What to send, for a stream or not; closing this closes what runs.

        Raises, as it goes:
            EngineError: as `Engine.generate`.
        """
        self._return_ids = bool(request.return_token_ids)
        self._num_prompt_logprobs = request.prompt_logprobs
        if not request.stream:
            return self._all_at_once()
        return self._as_they_come(request.stream_options or ChatCompletionStreamOptions())

    async def _all_at_once(self) -> AsyncGenerator[msgspec.Struct, None]:
        answers: list[list[GenerationChunk]] = [[] for _ in range(self._num_answers)]
        async with aclosing(self._chunks()) as chunks:
            async for chunk in chunks:
                answers[chunk.index].append(chunk)
                self._last[chunk.index] = chunk
        choices = tuple(self._choice(answer) for answer in answers)
        head = _head(self._id_prefix, answers[0][0].target, self._engine.base)
        yield self._whole(
            **head, **self._of_prompt(answers[0][0]), choices=choices, usage=self._usage()
        )

    async def _as_they_come(
        self, options: ChatCompletionStreamOptions
    ) -> AsyncGenerator[msgspec.Struct, None]:
        head: dict[str, Any] = {}
        async with aclosing(self._chunks()) as chunks:
            async for chunk in chunks:
                of_prompt = {} if head else self._of_prompt(chunk)
                head = head or _head(self._id_prefix, chunk.target, self._engine.base)
                pieces = list(self._pieces(chunk))
                self._last[chunk.index] = chunk
                usage = None if options.include_usage else UNSET
                if options.continuous_usage_stats:
                    usage = self._usage()
                for choice in pieces:
                    yield self._piece(**head, **of_prompt, choices=(choice,), usage=usage)
                    of_prompt = {}
        if options.include_usage:
            yield self._piece(**head, choices=(), usage=self._usage())

    @abstractmethod
    def _choice(self, chunks: Sequence[GenerationChunk]) -> msgspec.Struct:
        """One whole answer."""

    @abstractmethod
    def _pieces(self, chunk: GenerationChunk) -> Iterator[msgspec.Struct]:
        """What a chunk adds to its answer; nothing, or several things."""

    def _of_prompt(self, _first: GenerationChunk) -> dict[str, Any]:
        """What a record says of the prompt beside its choices, from the first chunk of all."""
        return {}

    def _ids(self, chunks: Iterable[GenerationChunk]) -> tuple[int, ...] | UnsetType:
        """The tokens of these chunks, if they were asked for."""
        if not self._return_ids:
            return UNSET
        return tuple(token for chunk in chunks for token in chunk.token_ids)

    def _chunks(self) -> AsyncGenerator[GenerationChunk, None]:
        only = len(self._rows) == 1
        chunks = self._engine.generate(self._rows[0]) if only else self._together()
        return _finished(metered(self._rows, chunks), self._num_answers)

    def _together(self) -> AsyncGenerator[GenerationChunk, None]:
        """The chunks of all requests as they come; closing this closes them all.

        `index` counts through: the answers of the first request, then those of the second.

        Raises:
            EngineError: as `Engine.generate`; the other requests are closed.
        """
        firsts = accumulate((row.n for row in self._rows), initial=0)
        return merged(
            _counted_from(first, self._engine.generate(row))
            for first, row in zip(firsts, self._rows, strict=False)
        )

    def _usage(self) -> CompletionUsage:
        """Each prompt counts once, however many answers it has; all `n` have the same."""
        n = self._rows[0].n
        num_prompt = sum(len(row.prompt) for row in self._rows)
        num_drawn = sum(chunk.completion_tokens for chunk in self._last.values())
        num_cached = sum(c.cached_tokens for index, c in self._last.items() if index % n == 0)
        return CompletionUsage(
            prompt_tokens=num_prompt,
            completion_tokens=num_drawn,
            total_tokens=num_prompt + num_drawn,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=num_cached),
        )


def _head(id_prefix: str, target: Target, base: BaseInfo) -> dict[str, Any]:
    """The fields that all records of one answer share."""
    # The weights behind it: the base, and the version of each adapter on it.
    digests = "+".join(part.digest[:_FINGERPRINT_CHARS] for part in target.parts)
    return {
        "id": f"{id_prefix}-{random_digits()}",
        "created": int(time.time()),
        "model": target.model,
        "system_fingerprint": f"{base.id}-{digests}" if digests else base.id,
    }


class ChatAnswers(_Answers):
    """Answers to a conversation; a stream says the role before the first text."""

    _id_prefix = "chatcmpl"
    _whole = ChatCompletion
    _piece = ChatCompletionChunk

    def _choice(self, chunks: Sequence[GenerationChunk]) -> Choice:
        entries = [entry for chunk in chunks for entry in chunk.logprobs]
        reason = chunks[-1].finish_reason
        assert reason is not None  # or `_finished` has raised
        return Choice(
            index=chunks[0].index,
            message=ChatCompletionMessage(content="".join(chunk.text for chunk in chunks)),
            finish_reason=reason,
            logprobs=self._logprobs(entries),
            token_ids=self._ids(chunks),
        )

    def _pieces(self, chunk: GenerationChunk) -> Iterator[ChunkChoice]:
        index = chunk.index
        if index not in self._last:
            yield ChunkChoice(index=index, delta=ChoiceDelta(role="assistant", content=""))
        ids = self._ids([chunk])
        if chunk.text or chunk.logprobs or (ids and chunk.finish_reason is None):
            yield ChunkChoice(
                index=index,
                delta=ChoiceDelta(content=chunk.text),
                logprobs=self._logprobs(chunk.logprobs),
                token_ids=ids,
            )
            ids = UNSET
        if chunk.finish_reason is not None:
            yield ChunkChoice(
                index=index,
                delta=ChoiceDelta(),
                finish_reason=chunk.finish_reason,
                token_ids=ids,
            )

    def _of_prompt(self, first: GenerationChunk) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if self._return_ids:
            fields["prompt_token_ids"] = self._rows[0].prompt
        if self._num_prompt_logprobs is not None:
            scored = first.scored_prompt
            fields["prompt_logprobs"] = prompt_logprobs(scored, self._num_prompt_logprobs)
        return fields

    def _logprobs(self, entries: Iterable[TokenLogprob]) -> ChoiceLogprobs | None:
        if not self._with_logprobs:
            return None
        return ChoiceLogprobs(
            content=tuple(
                ChatCompletionTokenLogprob(
                    token=entry.token,
                    bytes=entry.bytes,
                    logprob=entry.logprob,
                    top_logprobs=tuple(
                        TopLogprob(token=top.token, bytes=top.bytes, logprob=top.logprob)
                        for top in entry.top
                    ),
                )
                for entry in entries
            )
        )


class CompletionAnswers(_Answers):
    """Texts continued: prompt by prompt, each with its `n` continuations."""

    _id_prefix = "cmpl"
    _whole = Completion
    _piece = Completion

    def __init__(
        self, rows: Sequence[GenerationRequest], echoes: Sequence[str], engine: Engine
    ) -> None:
        super().__init__(rows, engine)
        echo_of = [echo for row, echo in zip(rows, echoes, strict=True) for _ in range(row.n)]
        self._texts = [
            ContinuedText(index, echo, self._with_logprobs) for index, echo in enumerate(echo_of)
        ]

    def _choice(self, chunks: Sequence[GenerationChunk]) -> CompletionChoice:
        return self._continued(chunks, is_first=True)

    def _pieces(self, chunk: GenerationChunk) -> Iterator[CompletionChoice]:
        yield self._continued([chunk], is_first=chunk.index not in self._last)

    def _continued(self, chunks: Sequence[GenerationChunk], *, is_first: bool) -> CompletionChoice:
        first, *others = chunks
        row = self._rows[first.index // self._rows[0].n]
        plain = self._texts[first.index].piece([_echoed(first, row), *others])
        num_top = self._num_prompt_logprobs
        return msgspec.structs.replace(
            plain,
            token_ids=self._ids(chunks),
            prompt_token_ids=row.prompt if self._return_ids and is_first else UNSET,
            prompt_logprobs=UNSET
            if num_top is None
            else prompt_logprobs(first.scored_prompt, num_top),
        )


def _echoed(first: GenerationChunk, row: GenerationRequest) -> GenerationChunk:
    """An answer's first chunk with as much of the scored prompt as its own report holds."""
    if not first.scored_prompt:
        return first
    num_top = row.num_top_logprobs or 0
    scored = [
        msgspec.structs.replace(token, top=token.top[:num_top])
        if isinstance(token, TokenLogprob)
        else token
        for token in first.scored_prompt
    ]
    # Who did not ask for an echo has asked for `prompt_logprobs`, which are reported apart.
    return msgspec.structs.replace(first, scored_prompt=tuple(scored) if row.report_end else ())


def prompt_logprobs(tokens: Sequence[TokenText], num_top: int) -> PromptLogprobs:
    """A scored prompt as vLLM reports it."""
    return tuple(
        _by_id(token, num_top) if isinstance(token, TokenLogprob) else None for token in tokens
    )


def _by_id(token: TokenLogprob, num_top: int) -> dict[str, PromptLogprob]:
    own = PromptLogprob(logprob=token.logprob, rank=token.rank, decoded_token=token.token)
    others = {
        str(top.id): PromptLogprob(logprob=top.logprob, rank=rank, decoded_token=top.token)
        for rank, top in enumerate(token.top[:num_top], 1)
        if top.id != token.id
    }
    return {str(token.id): own, **others}


class ContinuedText:
    """One continuation as it grows; knows where its next token begins."""

    def __init__(self, index: int, echo: str, with_logprobs: bool) -> None:
        self._index = index
        self._echo = echo
        self._with_logprobs = with_logprobs
        self._num_chars = len(echo)
        """Of the text so far, as the tokens spell it."""
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def piece(self, chunks: Sequence[GenerationChunk]) -> CompletionChoice:
        """What these chunks add; the first piece begins with the echoed prompt."""
        echo, self._echo = self._echo, ""
        logprobs = None
        if self._with_logprobs:
            prompt = chunks[0].scored_prompt
            written = [entry for chunk in chunks for entry in chunk.logprobs]
            offsets = [*_offsets_in_echo(prompt, echo), *map(self._offset, written)]
            logprobs = _columns([*prompt, *written], offsets)
        return CompletionChoice(
            text=echo + "".join(chunk.text for chunk in chunks),
            index=self._index,
            logprobs=logprobs,
            finish_reason=chunks[-1].finish_reason,
        )

    def _offset(self, entry: TokenText) -> int:
        begin, text = self._num_chars, self._utf8.decode(bytes(entry.bytes))
        self._num_chars += len(text) - text.count(_REPLACEMENT)  # no answer holds any
        return begin


def _offsets_in_echo(prompt: Sequence[TokenText], echo: str) -> Iterator[int]:
    """Where each token begins in a text in which bytes that are no character are U+FFFD."""
    utf8 = codecs.getincrementaldecoder("utf-8")("replace")
    num_chars = 0
    for number, content in enumerate(bytes(token.bytes) for token in prompt):
        begun, head = utf8.getstate()[0], utf8.decode(content[:1])
        text = head + utf8.decode(content[1:])
        # What was begun before is no character if it cannot go on like this; then it has its own.
        is_broken = (
            begun and head.startswith(_REPLACEMENT) and begun + content[:1] != _REPLACEMENT.encode()
        )
        yield num_chars + bool(is_broken)
        # Some tokenizers put a token before a text, which has no place in it.
        if number or echo.startswith(text):
            num_chars += len(text)


def _columns(entries: Sequence[TokenText], offsets: Sequence[int]) -> CompletionLogprobs:
    scored = [entry if isinstance(entry, TokenLogprob) else None for entry in entries]
    return CompletionLogprobs(
        tokens=tuple(_name(entry) for entry in entries),
        token_logprobs=tuple(entry and entry.logprob for entry in scored),
        top_logprobs=tuple(
            entry and {_name(top): top.logprob for top in (*entry.top, entry)} for entry in scored
        ),
        text_offset=tuple(offsets),
    )


def _name(token: TokenText) -> str:
    """Its text, or OpenAI's spelling of bytes that are no text, so that no two look the same."""
    if not token.bytes:  # one of the frame, which has no place in the text
        return token.token
    try:
        return bytes(token.bytes).decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)


async def _finished(
    chunks: AsyncGenerator[GenerationChunk, None], num_answers: int
) -> AsyncGenerator[GenerationChunk, None]:
    """Pass chunks on; closing this closes them.

    Raises:
        GenerationFailedError: they ended before each of the answers had a finish reason.
    """
    async with aclosing(chunks):
        async for chunk in chunks:
            num_answers -= chunk.finish_reason is not None
            yield chunk
    if num_answers:
        raise GenerationFailedError(
            "The engine stopped before the poem was finished; send it again."
        )


async def _counted_from(
    first: int, chunks: AsyncGenerator[GenerationChunk, None]
) -> AsyncGenerator[GenerationChunk, None]:
    """One request's chunks, its first answer being so many in the list of all."""
    async with aclosing(chunks):
        async for chunk in chunks:
            yield msgspec.structs.replace(chunk, index=first + chunk.index)
