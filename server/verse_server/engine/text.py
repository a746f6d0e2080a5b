"""From tokens to the text a client sees. Pure: no mlx.

Never sent are half a character, bytes that are no character, tokens of the prompt's frame, and any
part of a stop string.
"""

from collections.abc import Collection, Sequence
from typing import Protocol


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


class AnswerText:
    """The text of one row's answer."""

    def __init__(
        self,
        detokenizer: Detokenizer,
        stops: Sequence[str],
        prefix: str = "",
        hidden: Collection[int] = (),
    ) -> None:
        """Begin an answer.

        Args:
            detokenizer: A fresh one.
            stops: Strings that end it.
            prefix: Taken off its beginning.
            hidden: Tokens that have no text.
        """
        self._detokenizer = detokenizer
        self._hidden = hidden
        self._matcher = StopMatcher(stops)
        self._prefix = prefix

    def push(self, token: int) -> tuple[str, bool]:
        """Take a token in; returns as `StopMatcher.push` does."""
        if token in self._hidden:
            return "", False
        self._detokenizer.add_token(token)
        return self._send(self._detokenizer.last_segment)

    def finish(self) -> tuple[str, bool]:
        """The rest, when no token follows; returns as `StopMatcher.push` does."""
        self._detokenizer.finalize()
        text, stopped = self._send(self._detokenizer.last_segment)
        return (text, True) if stopped else (text + self._matcher.flush(), False)

    def _send(self, text: str) -> tuple[str, bool]:
        # What the detokenizer puts for bytes that are no character.
        text = text.replace("\N{REPLACEMENT CHARACTER}", "")
        if text and self._prefix:
            text, self._prefix = text.removeprefix(self._prefix), ""
        return self._matcher.push(text)
