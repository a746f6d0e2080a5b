"""Answers that call tools, whole and streamed.

The engine writes text; what of it is a call depends on what was asked for. A reader turns the text
into pieces as it comes: words for the client's user, the name of a function, parts of its
arguments. Pieces become OpenAI's records here.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec
from msgspec import UNSET, UnsetType

from verse.tool_calls import ToolCall, ToolCallReader
from verse_server.api.answering import ChatAnswers
from verse_server.api.request_log import random_digits
from verse_server.api.tools import ToolUse
from verse_server.engine.interface import Engine
from verse_server.engine.types import GenerationChunk, GenerationRequest, TokenLogprob
from verse_server.protocol.chat import (
    ChatCompletionMessage,
    ChatFinishReason,
    Choice,
    ChoiceDelta,
    ChoiceLogprobs,
    ChunkChoice,
)
from verse_server.protocol.tools import (
    ChatCompletionMessageToolCall,
    ChoiceDeltaToolCall,
    FunctionCall,
    FunctionCallDelta,
)

_CHOSEN = re.compile(r'\{"name": "([^"\\]*)", "arguments": ')
"""How every answer begins that follows `ToolUse.constraint` where there is a choice."""


class CallBegins(msgspec.Struct, frozen=True):
    """A function is called."""

    name: str


class Arguments(msgspec.Struct, frozen=True):
    """The next part of the arguments of the call that began last."""

    text: str


Piece = str | CallBegins | Arguments


class _Reader(Protocol):
    def push(self, text: str) -> Sequence[Piece]: ...

    def flush(self) -> Sequence[Piece]: ...


class _NamedCall:
    """The text is the arguments of one function."""

    def __init__(self, name: str) -> None:
        self._name: str | None = name

    def push(self, text: str) -> list[Piece]:
        begins = [CallBegins(self._name)] if self._name is not None else []
        self._name = None
        return [*begins, Arguments(text)] if text else [*begins]

    def flush(self) -> list[Piece]:
        return []


class _ChosenCall:
    """The text is `{"name": ..., "arguments": ...}`; its last brace closes the whole."""

    def __init__(self) -> None:
        self._held = ""
        self._arguments: str | None = None
        """Those that were passed on; None before they begin."""

    def push(self, text: str) -> list[Piece]:
        self._held += text
        pieces: list[Piece] = []
        if self._arguments is None:
            begins = _CHOSEN.match(self._held)
            if begins is None:
                return []
            pieces.append(CallBegins(begins[1]))
            self._held, self._arguments = self._held[begins.end() :], ""
        return [*pieces, *self._pass_on(self._held[:-1])]

    def flush(self) -> list[Piece]:
        if self._arguments is None:
            return [self._held] if self._held else []
        # Cut short, the last brace is one of the arguments' own.
        return [] if _is_json(self._arguments) else self._pass_on(self._held)

    def _pass_on(self, text: str) -> list[Piece]:
        self._held = self._held[len(text) :]
        self._arguments = (self._arguments or "") + text
        return [Arguments(text)] if text else []


class _FreeCalls:
    """The text is the model's own, with calls where it chose to make some."""

    def __init__(self) -> None:
        self._reader = ToolCallReader()

    def push(self, text: str) -> list[Piece]:
        return [piece for part in self._reader.push(text) for piece in _pieces_of(part)]

    def flush(self) -> list[Piece]:
        return [piece for part in self._reader.flush() for piece in _pieces_of(part)]


def _pieces_of(part: str | ToolCall) -> list[Piece]:
    return [part] if isinstance(part, str) else [CallBegins(part.name), Arguments(part.arguments)]


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _reader_for(use: ToolUse) -> Callable[[], _Reader]:
    if not use.is_forced:
        return _FreeCalls
    name = use.only_function
    return _ChosenCall if name is None else lambda: _NamedCall(name)


class _Answer:
    """One answer as it grows."""

    def __init__(self, reader: _Reader) -> None:
        self.reader = reader
        self.num_calls = 0
        self.has_begun = False
        self.unsent: list[TokenLogprob] = []
        """Of tokens whose text is held back."""
        self.unsent_ids: tuple[int, ...] = ()

    def delta(self, piece: Piece) -> ChoiceDelta:
        """What a piece adds, in OpenAI's shape."""
        match piece:
            case str():
                return ChoiceDelta(content=piece)
            case CallBegins():
                self.num_calls += 1
                call = ChoiceDeltaToolCall(
                    index=self.num_calls - 1,
                    id=_new_id(),
                    type="function",
                    function=FunctionCallDelta(name=piece.name, arguments=""),
                )
            case Arguments():
                function = FunctionCallDelta(arguments=piece.text)
                call = ChoiceDeltaToolCall(index=self.num_calls - 1, function=function)
        return ChoiceDelta(tool_calls=(call,))


class ToolAnswers(ChatAnswers):
    """Answers to a conversation in which tools may or must be called."""

    def __init__(self, rows: Sequence[GenerationRequest], engine: Engine, use: ToolUse) -> None:
        super().__init__(rows, engine)
        make_reader = _reader_for(use)
        self._is_named, self._is_forced = use.mode == "named", use.is_forced
        self._answers = [_Answer(make_reader()) for _ in range(self._num_answers)]

    def _choice(self, chunks: Sequence[GenerationChunk]) -> Choice:
        plain = super()._choice(chunks)
        reader = self._answers[chunks[0].index].reader
        pieces = [*reader.push(plain.message.content or ""), *reader.flush()]
        content = "".join(piece for piece in pieces if isinstance(piece, str))
        calls = _whole_calls(pieces)
        if not calls:
            return plain
        return msgspec.structs.replace(
            plain,
            message=ChatCompletionMessage(content=content or None, tool_calls=calls),
            finish_reason=self._reason(chunks[-1], len(calls)),
        )

    def _pieces(self, chunk: GenerationChunk) -> Iterator[ChunkChoice]:
        index, answer = chunk.index, self._answers[chunk.index]
        answer.unsent += chunk.logprobs
        answer.unsent_ids += chunk.token_ids
        pieces = [*answer.reader.push(chunk.text)]
        if chunk.finish_reason is not None:
            pieces += answer.reader.flush()
        deltas = [answer.delta(piece) for piece in pieces]
        if not answer.has_begun:
            deltas = _with_role(deltas, None if self._is_forced else "")
            answer.has_begun = True
        for delta in deltas:
            # The first delta may be the role alone; tokens come with what they spell.
            yield ChunkChoice(
                index=index,
                delta=delta,
                logprobs=self._sent(answer, delta),
                token_ids=self._ids_sent(answer, delta),
            )
        if (reason := self._reason(chunk, answer.num_calls)) is not None:
            left = self._sent(answer, None) if answer.unsent else None
            yield ChunkChoice(
                index=index,
                delta=ChoiceDelta(),
                finish_reason=reason,
                logprobs=left,
                token_ids=self._ids_sent(answer, None),
            )

    def _sent(self, answer: _Answer, delta: ChoiceDelta | None) -> ChoiceLogprobs | None:
        """The logprobs that go with a delta; None where they were not asked for."""
        if delta is not None and not delta.content and not delta.tool_calls:
            return None
        entries, answer.unsent = answer.unsent, []
        return self._logprobs(entries)

    def _ids_sent(self, answer: _Answer, delta: ChoiceDelta | None) -> tuple[int, ...] | UnsetType:
        """The tokens that go with a delta, as `_sent`; all that are left with the last one."""
        if delta is not None and not delta.content and not delta.tool_calls:
            return UNSET
        ids, answer.unsent_ids = answer.unsent_ids, ()
        return ids if self._return_ids else UNSET

    def _reason(self, last: GenerationChunk, num_calls: int) -> ChatFinishReason | None:
        """OpenAI says `stop` where the request named the function."""
        calls = last.finish_reason == "stop" and num_calls and not self._is_named
        return "tool_calls" if calls else last.finish_reason


def _with_role(deltas: Sequence[ChoiceDelta], content: str | None) -> list[ChoiceDelta]:
    """An answer that begins with a call says so in its first delta; any other with its role."""
    if deltas and deltas[0].tool_calls:
        first = msgspec.structs.replace(deltas[0], role="assistant", content=None)
        return [first, *deltas[1:]]
    return [ChoiceDelta(role="assistant", content=content), *deltas]


def _whole_calls(pieces: Sequence[Piece]) -> tuple[ChatCompletionMessageToolCall, ...]:
    names = [piece.name for piece in pieces if isinstance(piece, CallBegins)]
    arguments = [""] * len(names)
    current = -1
    for piece in pieces:
        if isinstance(piece, CallBegins):
            current += 1
        elif isinstance(piece, Arguments):
            arguments[current] += piece.text
    return tuple(
        ChatCompletionMessageToolCall(
            id=_new_id(), function=FunctionCall(name=name, arguments=text)
        )
        for name, text in zip(names, arguments, strict=True)
    )


def _new_id() -> str:
    return f"call_{random_digits()[:24]}"
