"""What `verse data check` looks at, and what it finds."""

from pathlib import Path
from typing import Literal, Protocol

import msgspec

from verse.prompt import Message

Kind = Literal[
    "other_format",
    "empty",
    "too_long",
    "leak",
    "duplicate",
    "near_duplicate",
    "several_themes",
    "hard_characters",
    "unreached",
    "held_back",
    "unsplit",
    "rejected",
    "unknown_verdict",
]

ERRORS: tuple[Kind, ...] = ("other_format", "rejected", "empty", "too_long", "leak")
"""Kinds a data set cannot be used with; the others are warnings."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A poem or row, wherever it stands."""

    path: Path
    line: int
    messages: tuple[Message, ...]
    poem_id: str = ""
    """Of a file of poems; rows have none."""

    @property
    def place(self) -> str:
        """`train.jsonl:12`."""
        return f"{self.path}:{self.line}"

    @property
    def theme(self) -> str:
        """The last thing that was asked."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def text(self) -> str:
        """All answers."""
        return "\n".join(m.content for m in self.messages if m.role == "assistant")


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong at one place."""

    kind: Kind
    path: Path
    line: int
    message: str
    """No full stop."""

    @property
    def is_error(self) -> bool:
        """Whether the data set cannot be used like this."""
        return self.kind in ERRORS

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}."


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was checked, and all that was found, by file and line."""

    num_entries: dict[str, int]
    """By file."""
    limit: int
    """Tokens a row may have."""
    model: str
    problems: tuple[Problem, ...]

    @property
    def num_errors(self) -> int:
        """Of problems that keep the data set from being used."""
        return sum(problem.is_error for problem in self.problems)


class Measure(Protocol):
    """What a model's tokenizer makes of an entry."""

    def num_tokens(self, messages: tuple[Message, ...]) -> int:
        """Of the whole conversation, frame included.

        Raises:
            PromptError: the model's chat template refuses it.
        """
        ...

    def hard_characters(self, text: str) -> list[str]:
        """Characters that have no token of their own."""
        ...


def problem_at(entry: Entry, kind: Kind, message: str) -> Problem:
    """A problem of one entry."""
    return Problem(kind=kind, path=entry.path, line=entry.line, message=message)
