"""From tokens to the text a client sees. Pure: no mlx.

Never sent are half a character, bytes that are no character, tokens of the prompt's frame, and any
part of a stop string.
"""

import codecs
from collections import deque
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Any, Protocol, cast

from transformers.convert_slow_tokenizer import bytes_to_unicode

from verse_server.engine.types import TokenLogprob, TokenText

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What a detokenizer puts for bytes that are no character."""


class Detokenizer(Protocol):
    """mlx-lm's streaming detokenizer: holds back bytes until they are whole characters."""

    def add_token(self, token: int) -> None:
        """Take one token in."""
        ...

    def finalize(self) -> None:
        """Let go of what is held back."""
        ...

    @property
    def last_segment(self) -> str:
        """The text that has become readable since this was last read."""
        ...


class StopMatcher:
    """Finds the first stop string in a text that arrives in pieces.

    The first is the one that is whole first, so the answer does not depend on where the pieces were
    cut. An empty string stops nothing.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Take a piece in.

        Returns:
            What can be sent now, and whether a stop string was found. Nothing follows a stop.
        """
        text = self._held + text
        found = [(i + len(stop), i) for stop in self._stops if (i := text.find(stop)) >= 0]
        if found:
            self._held = ""
            _, start = min(found)
            return text[:start], True
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


class TokenStarts:
    """Where in the text each token begins, for telling which tokens a part of the text is made of.

    A character that several tokens spell belongs to the one that completes it, and a token without
    text begins where the next one does.
    """

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("ignore")
        self._num_spelled = 0
        self._num_read = 0
        self._unread: list[int] = []
        """Characters that were spelled before each token whose text could not be read yet."""
        self._starts: deque[int] = deque()
        """Of the tokens that `begun_before` has not counted."""
        self._num_begun = 0

    def add(self, content: bytes) -> None:
        """The next token stands for these bytes."""
        self._unread.append(self._num_spelled)
        self._num_spelled += len(self._utf8.decode(content).replace(_REPLACEMENT, ""))

    def read(self, num_chars: int) -> None:
        """So many more characters can be read, with which all tokens added so far are spelled.

        Counted from their end: what was taken off their beginning does not move the tokens.
        """
        before, self._num_read = self._num_read, self._num_read + num_chars
        to_here = self._num_read - self._num_spelled
        self._starts += [max(before, to_here + spelled) for spelled in self._unread]
        self._unread.clear()

    def begun_before(self, num_chars: int) -> int:
        """How many of all tokens begin in the first so many characters; never asked for fewer."""
        while self._starts and self._starts[0] < num_chars:
            self._starts.popleft()
            self._num_begun += 1
        return self._num_begun


class AnswerText:
    """The text of one sequence."""

    def __init__(
        self,
        detokenizer: Detokenizer,
        stops: Sequence[str],
        prefix: str = "",
        hidden: Collection[int] = (),
        bytes_of: Callable[[int], bytes] | None = None,
        min_tokens: int = 0,
    ) -> None:
        """Begin an answer.

        Args:
            detokenizer: A fresh one.
            stops: Strings that end it.
            prefix: Taken off its beginning.
            hidden: Tokens that have no text.
            bytes_of: What each token stands for; given, `num_begun` counts.
            min_tokens: In the text of so many no stop is looked for.
        """
        self._detokenizer = detokenizer
        self._hidden = hidden
        self._matcher = StopMatcher(stops)
        self._prefix = prefix
        self._bytes_of = bytes_of
        self._starts = TokenStarts()
        self._num_sent = 0
        self._num_unstoppable = min_tokens

    @property
    def num_begun(self) -> int:
        """How many of the tokens, in their order, have some of their text in what was sent."""
        return self._starts.begun_before(self._num_sent)

    def shows(self, token: int) -> bool:
        """Whether it has a text."""
        return token not in self._hidden

    def push(self, token: int) -> tuple[str, bool]:
        """Take a token in; returns as `StopMatcher.push` does."""
        shows = self.shows(token)
        self._num_unstoppable -= 1
        if self._bytes_of is not None:
            self._starts.add(self._bytes_of(token) if shows else b"")
        if not shows:
            return "", False
        self._detokenizer.add_token(token)
        return self._send(self._detokenizer.last_segment)

    def finish(self) -> tuple[str, bool]:
        """The rest, when no token follows; returns as `StopMatcher.push` does."""
        self._detokenizer.finalize()
        text, stopped = self._send(self._detokenizer.last_segment)
        return (text, True) if stopped else (text + self._matcher.flush(), False)

    def _send(self, text: str) -> tuple[str, bool]:
        text = text.replace(_REPLACEMENT, "")
        if text and self._prefix:
            text, self._prefix = text.removeprefix(self._prefix), ""
        if text and self._bytes_of is not None:
            self._starts.read(len(text))
        sent, stopped = (text, False) if self._num_unstoppable >= 0 else self._matcher.push(text)
        self._num_sent += len(sent)
        return sent, stopped


class TokenTexts:
    """Tells what a token stands for; a token of a byte-level tokenizer may be half a character."""

    def __init__(self, tokenizer: object) -> None:
        self._tokenizer = cast(Any, tokenizer)

    def bytes_of(self, token: int) -> bytes:
        """The bytes that this token adds to a text."""
        name = cast(str | None, self._tokenizer.convert_ids_to_tokens(token))
        if name is None:  # a row of the embedding that no token uses
            return b""
        if token not in self._added and all(character in self._byte_of for character in name):
            return bytes(self._byte_of[character] for character in name)
        return cast(str, self._tokenizer.decode([token])).encode()

    def logprob(
        self,
        token: int,
        logprob: float,
        top: tuple[TokenLogprob, ...] = (),
        rank: int | None = None,
    ) -> TokenLogprob:
        """A token's entry in a report."""
        text = self.text(token)
        return TokenLogprob(
            token=text.token, bytes=text.bytes, id=token, logprob=logprob, top=top, rank=rank
        )

    def text(self, token: int) -> TokenText:
        """A token alone."""
        content = self.bytes_of(token)
        return TokenText(token=content.decode("utf-8", "replace"), bytes=tuple(content), id=token)

    @cached_property
    def _added(self) -> set[int]:
        return set(cast(dict[str, int], self._tokenizer.get_added_vocab()).values())

    @cached_property
    def _byte_of(self) -> dict[str, int]:
        """Byte-level tokenizers write every byte as one printable character (GPT-2)."""
        return {character: byte for byte, character in bytes_to_unicode().items()}
