"""Answers that follow a schema, a regular expression or a grammar: which tokens may come next.

llguidance compiles each of them to a grammar over the tokenizer's bytes, so a Chinese character
that takes several tokens is allowed token by token. Each row follows the grammar with a matcher of
its own. White space in JSON is fixed to one blank after `,` and `:`; a small model that may choose
it writes nothing else.

llguidance bounds its own work, but for three things that are counted before a schema is compiled:
it follows schemas by recursion (thousands nested through `$ref` overflow the stack of the process),
makes one state for each remainder of `multipleOf`, and reads any amount of text. It follows the
rules of a grammar by recursion too.
"""

import asyncio
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from functools import lru_cache
from typing import Any, cast

import msgspec
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, grammar_from
from numpy.typing import NDArray

from verse.base_model import BaseModel
from verse_server.engine.errors import EngineClosedError, InvalidRequestError
from verse_server.engine.sampling.grammar_tokens import make_grammar_tokenizer
from verse_server.engine.types import Constraint

_MAX_COMPILED = 16
_COMPILE_SECONDS = 5.0
_MAX_REASON_CHARS = 200
_REST_SECONDS = 1.0
"""Nobody has asked for anything for so long when the tokenizer is made."""
_LOOK_SECONDS = 0.1
# A pattern such as (a{1000}){1000} takes seconds with llguidance's own limits, 0.2 s with these.
_LIMITS = LLParserLimits(
    initial_lexer_fuel=200_000,
    step_lexer_fuel=50_000,
    max_lexer_states=50_000,
    verbose_errors=False,
)


class Matcher:
    """Follows one answer through its grammar. Engine thread only."""

    def __init__(self, state: LLMatcher, grammar: "Grammar") -> None:
        self._state = state
        self._grammar = grammar

    def take(self, token: int) -> None:
        """Move past a token of the answer."""
        if not self._state.is_stopped():
            self._state.consume_token(token)
        self._note_failure()

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, (vocab,). After the end, or a failure, only end tokens."""
        bits = np.frombuffer(self._state.compute_bitmask(), np.uint8)
        self._note_failure()
        mask = np.unpackbits(bits, bitorder="little").view(np.bool_)
        return mask[: self._grammar.vocab_size]

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow any more."""
        return self._state.is_stopped() and not self._state.is_error()

    @property
    def failure(self) -> str | None:
        """Why it cannot go on: one of llguidance's limits, usually."""
        return _reason(self._state.get_error()) if self._state.is_error() else None

    def _note_failure(self) -> None:
        self._grammar.failed |= self._state.is_error()


class Grammar:
    """A compiled constraint."""

    def __init__(self, compiled: LLMatcher, vocab_size: int) -> None:
        self._compiled = compiled
        self.vocab_size = vocab_size
        self.failed = False
        """Matchers share what they learn, also what they fail of; so a failed one is not reused."""

    def matcher(self) -> Matcher:
        """One for a new answer. Engine thread only."""
        return Matcher(self._compiled.deep_copy(), self)


class Grammars:
    """Compiles constraints, each once."""

    def __init__(self, base: BaseModel, idle_seconds: Callable[[], float] = lambda: 0.0) -> None:
        """Begin to wait for a moment to make the tokenizer in.

        Args:
            base: Whose tokens it is about.
            idle_seconds: For how long nobody has asked for anything.
        """
        self._base = base
        self._compile = lru_cache(_MAX_COMPILED)(self._compile_anew)
        # Two, so that one slow grammar does not hold up all others.
        self._threads = ThreadPoolExecutor(2, "grammar")
        self._tokenizer: Future[LLTokenizer] = Future()
        self._wanted, self._closed = threading.Event(), False
        # Takes most of a second for a large vocabulary and keeps Python for itself meanwhile: so
        # not while the server starts or a stream runs, and not only when the first grammar comes.
        threading.Thread(
            target=self._make_in_time, args=[idle_seconds], name="grammar-tokenizer", daemon=True
        ).start()

    def close(self) -> None:
        """Make nothing that nobody has asked for."""
        self._closed = True
        self._wanted.set()

    async def compile(self, constraint: Constraint) -> Grammar:
        """Compile a constraint off the event loop, or find it compiled.

        Raises:
            InvalidRequestError: it cannot be followed; says why.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_COMPILE_SECONDS):
                return await loop.run_in_executor(self._threads, self._compiled, constraint)
        except TimeoutError:
            raise _refusal(
                constraint, f"compiling it takes longer than {_COMPILE_SECONDS:g} s"
            ) from None

    def _compiled(self, constraint: Constraint) -> Grammar:
        grammar = self._compile(constraint)
        if grammar.failed:
            self._compile.cache_clear()
            grammar = self._compile(constraint)
        return grammar

    def _compile_anew(self, constraint: Constraint) -> Grammar:
        if excess := _excess(constraint):
            raise _refusal(constraint, excess)
        try:
            text = _grammar_text(constraint)
        except ValueError as error:
            raise _refusal(constraint, _reason(str(error))) from error
        compiled = LLMatcher(self._tokenizer_for(constraint), text, log_level=0, limits=_LIMITS)
        if problem := compiled.get_error() or _first_problem(compiled.deep_copy()):
            raise _refusal(constraint, _reason(problem))
        return Grammar(compiled, self._base.vocab_size)

    def _tokenizer_for(self, constraint: Constraint) -> LLTokenizer:
        self._wanted.set()
        try:
            return self._tokenizer.result()
        except ValueError as error:
            raise InvalidRequestError(
                f"This base's tokenizer cannot be held to a grammar ({_reason(str(error))}); "
                f"leave '{constraint.param}' out.",
                param=constraint.param,
            ) from error

    def _make_in_time(self, idle_seconds: Callable[[], float]) -> None:
        begun = time.monotonic()
        while not self._wanted.wait(_LOOK_SECONDS):
            if min(idle_seconds(), time.monotonic() - begun) >= _REST_SECONDS:
                break
        if self._closed:
            self._tokenizer.set_exception(EngineClosedError("The server is shutting down."))
            return
        base = self._base
        try:
            made = make_grammar_tokenizer(base.hf_tokenizer, base.vocab_size, base.end_tokens)
        except BaseException as error:  # noqa: BLE001  (raised where it is asked for)
            self._tokenizer.set_exception(error)
        else:
            self._tokenizer.set_result(made)


def _grammar_text(constraint: Constraint) -> str:
    """The grammar in llguidance's own words; raises ValueError if it cannot read the text."""
    match constraint.kind:
        case "json_schema":
            return LLMatcher.grammar_from_json_schema(
                constraint.text,
                overrides={
                    "whitespace_flexible": False,
                    "item_separator": ", ",
                    "key_separator": ": ",
                    "lenient": False,  # a keyword that is not enforced is an error
                },
            )
        case "choice":
            choices = msgspec.json.decode(constraint.text, type=list[str])
            # As a terminal, whose name is in capitals: a rule has no room for a thousand.
            quoted = " | ".join(msgspec.json.encode(choice).decode() for choice in choices)
            return LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {quoted}")
        case kind:
            return grammar_from(kind, constraint.text)


def _first_problem(probe: LLMatcher) -> str:
    """What goes wrong up to the first token that is a choice; empty if nothing.

    Finds schemas that nothing satisfies, endless ones, and the dearest patterns.
    """
    probe.consume_tokens(probe.compute_ff_tokens())
    probe.compute_bitmask()
    return probe.get_error()


def _refusal(constraint: Constraint, reason: str) -> InvalidRequestError:
    noun = _NOUNS[constraint.kind]
    return InvalidRequestError(
        f"The {noun} of '{constraint.param}' cannot be used: {reason}; change the {noun}.",
        param=constraint.param,
    )


def _reason(message: str) -> str:
    """Llguidance's words in one line."""
    words = " ".join(message.replace("<non-verbose/>", "").split()).rstrip(".")
    words = "nothing satisfies it" if words == "NoExtensionBias" else words
    return words if len(words) <= _MAX_REASON_CHARS else f"{words[:_MAX_REASON_CHARS]}…"


_NOUNS = {
    "json_schema": "schema",
    "regex": "regular expression",
    "choice": "list of choices",
    "grammar": "grammar",
}
_MAX_BYTES = 64 << 10
_MAX_OBJECTS = 500
"""More than a thousand nested ones were seen to overflow a stack of 8 MiB."""
_MAX_RULES = 500
"""Of a grammar. A chain of a few thousand was seen to do the same."""
_RULE = re.compile(r":+")
"""`:` in Lark, `::=` in GBNF; one in a text is counted too."""
_FOREIGN = re.compile(r"%json\b|\[[^\]\n]*\btemperature\s*=")
"""In a grammar: a schema inside, which would not be looked through; and a temperature, which only
the request has."""
_MAX_DEPTH = 64
_MAX_REMAINDERS = 1000
"""Of all `multipleOf` together: an `allOf` may ask for several at once."""


def _excess(constraint: Constraint) -> str | None:
    """What is too much, as a clause; None if nothing is."""
    text = constraint.text
    if constraint.kind == "json_schema":
        return schema_excess(text)
    if len(text.encode()) > _MAX_BYTES:
        return f"it is longer than {_MAX_BYTES} bytes"
    if constraint.kind == "grammar":
        if (foreign := _FOREIGN.search(text)) is not None:
            return f"it contains {foreign[0]!r}"
        if len(_RULE.findall(text)) > _MAX_RULES:
            return f"it has more than {_MAX_RULES} rules"
    return None


def schema_excess(schema: str) -> str | None:
    """What is too much about a schema, as a clause; None if nothing is.

    Args:
        schema: JSON text of an object.
    """
    if len(schema.encode()) > _MAX_BYTES:
        return f"it is longer than {_MAX_BYTES} bytes"
    objects: list[dict[str, Any]] = []
    for depth, value in _nested(msgspec.json.decode(schema)):
        if depth > _MAX_DEPTH:
            return f"it is nested deeper than {_MAX_DEPTH} levels"
        if isinstance(value, dict):
            objects.append(cast(dict[str, Any], value))
    if len(objects) > _MAX_OBJECTS:
        return f"it has more than {_MAX_OBJECTS} objects"
    steps = [step for o in objects if isinstance(step := o.get("multipleOf"), int | float)]
    if math.lcm(*map(_digits, steps)) > _MAX_REMAINDERS:
        return f"its 'multipleOf' together need more than {_MAX_REMAINDERS} remainders"
    return None


def _nested(root: Any) -> Iterator[tuple[int, Any]]:
    """Every value with its depth, without recursion."""
    left: list[tuple[int, Any]] = [(0, root)]
    while left:
        depth, value = left.pop()
        yield depth, value
        if isinstance(value, dict):
            left.extend((depth + 1, v) for v in cast(dict[str, Any], value).values())
        elif isinstance(value, list):
            left.extend((depth + 1, v) for v in cast(list[Any], value))


def _digits(number: float) -> int:
    """The digits that carry a number, as llguidance counts: 0.25 -> 25, 3000 -> 3."""
    return max(1, int("".join(map(str, Decimal(str(number)).normalize().as_tuple().digits))))
