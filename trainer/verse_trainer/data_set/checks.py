"""The checks of `verse data check`: pure, on entries alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from verse.prompt import Message, PromptError
from verse.similarity import SimilarPair, similar_pairs

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
    "left_out",
    "unknown_verdict",
]

ERRORS: tuple[Kind, ...] = ("other_format", "rejected", "empty", "leak")
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


def empty(entries: Sequence[Entry]) -> Iterator[Problem]:
    """Entries with a blank theme or poem."""
    for entry in entries:
        if not entry.theme.strip():
            yield problem_at(entry, "empty", "the theme is empty")
        if not entry.text.strip():
            yield problem_at(entry, "empty", "the poem is empty")


def repeated(entries: Sequence[Entry]) -> Iterator[Problem]:
    """Poems that stand in one file twice: as they are, as a draft, or under another theme."""
    reported: set[int] = set()
    for pair in similar_pairs([entry.text for entry in entries]):
        if pair.second not in reported:
            reported.add(pair.second)
            yield _repeated(entries[pair.first], entries[pair.second], pair)


def _repeated(first: Entry, second: Entry, pair: SimilarPair) -> Problem:
    kind: Kind = "near_duplicate"
    message = f"nearly the same poem stands in {first.place}"
    if pair.is_exact and first.theme == second.theme:
        kind, message = "duplicate", f"the same poem stands in {first.place}"
    elif pair.is_exact:
        kind = "several_themes"
        message = (
            f"the same poem has the theme {first.theme!r} in {first.place}, here {second.theme!r}"
        )
    return problem_at(second, kind, message)


def leaks(train: Sequence[Entry], measured: Sequence[Entry]) -> Iterator[Problem]:
    """Rows that are learned although they, or nearly they, are there to measure with."""
    for learned, kept in _alike(train, measured):
        yield problem_at(
            learned,
            "leak",
            f"this is in training, and {_nearly(learned, kept)}the same poem is in validation: "
            f"{kept.place}",
        )


def held_back(poems: Sequence[Entry], valid_ids: Sequence[str]) -> Iterator[Problem]:
    """Poems that the frozen split will keep from training, for being like a validation poem."""
    valid = [poem for poem in poems if poem.poem_id in valid_ids]
    others = [poem for poem in poems if poem.poem_id not in valid_ids]
    for other, kept in _alike(others, valid):
        yield problem_at(
            other,
            "held_back",
            f"`verse data split` keeps this from training: {_nearly(other, kept)}the same poem "
            f"validates, {kept.place}",
        )


def unsplit(poems: Sequence[Entry], rows: Sequence[Entry]) -> Iterator[Problem]:
    """Poems that no row was made of."""
    there = {(row.theme, row.text) for row in rows}
    for poem in poems:
        if (poem.theme, poem.text) not in there:
            message = "no row was made of this poem; run `verse data split`"
            yield problem_at(poem, "unsplit", message)


def too_long(entries: Sequence[Entry], measure: Measure, limit: int) -> Iterator[Problem]:
    """Entries with more tokens than the limit, and those the chat template refuses."""
    for entry in entries:
        try:
            num_tokens = measure.num_tokens(entry.messages)
        except PromptError as error:
            yield problem_at(entry, "other_format", str(error).rstrip("."))
            continue
        if num_tokens > limit:
            yield problem_at(
                entry,
                "too_long",
                f"{num_tokens} tokens, frame included, are more than {limit}; training cuts it "
                "at a line's end",
            )


def hard_characters(entries: Sequence[Entry], measure: Measure) -> Iterator[Problem]:
    """Entries with characters the model has no token for."""
    for entry in entries:
        if hard := measure.hard_characters(entry.theme + entry.text):
            yield problem_at(
                entry,
                "hard_characters",
                f"the model spells {' '.join(hard)} in pieces, which is hard to learn",
            )


def unreached(
    entries: Sequence[Entry], num_keys: Sequence[int], batch_size: int
) -> Iterator[Problem]:
    """Rows that mlx_lm.lora would never use; `verse train` uses all.

    It takes batches of neighbours and drops what is left over, the same rows in each epoch. What it
    means for a sort by length is one by the number of keys (`CacheDataset.itemlen`, mlx-lm 0.32.2).
    """
    order = sorted(range(len(entries)), key=lambda place: num_keys[place])
    for place in sorted(order[len(order) - len(order) % batch_size :]):
        yield problem_at(
            entries[place],
            "unreached",
            f"mlx_lm.lora would never use this row with a batch size of {batch_size}; "
            "`verse train` does",
        )


def _alike(ones: Sequence[Entry], others: Sequence[Entry]) -> Iterator[tuple[Entry, Entry]]:
    """Each of `ones` that is alike to one of `others`, with the first such."""
    reported: set[int] = set()
    for pair in similar_pairs([entry.text for entry in (*others, *ones)]):
        place = pair.second - len(others)
        if pair.first < len(others) and place >= 0 and place not in reported:
            reported.add(place)
            yield ones[place], others[pair.first]


def _nearly(one: Entry, other: Entry) -> str:
    return "" if one.text == other.text else "nearly "
