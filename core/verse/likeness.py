"""How alike two texts are, in characters: runs that one takes from another, and shingles.

Chinese needs no words for this. Texts are compared as they sound when read aloud: punctuation,
spaces, line breaks, width and case make no difference.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple


class _Kept(dict[int, int | None]):
    """For `str.translate`: what becomes of a character, worked out once for each."""

    def __missing__(self, code: int) -> int | None:
        self[code] = code if unicodedata.category(chr(code))[0] in "LNS" else None
        return self[code]


_KEPT = _Kept()


class Copy(NamedTuple):
    """The longest run of characters that a text shares with one source."""

    source: str
    """The key under which the source was added."""
    run: str
    """In the form `normalise` gives, as the text has it."""
    share: float
    """The run's length over the text's, 0 to 1."""


def normalise(text: str) -> str:
    """Letters, digits and symbols alone, in one width and case."""
    return unicodedata.normalize("NFKC", text).casefold().translate(_KEPT)


def shingles(normalised: str, size: int) -> frozenset[str]:
    """All runs of `size` characters; the whole text when it is shorter."""
    if len(normalised) <= size:
        return frozenset((normalised,)) if normalised else frozenset()
    return frozenset(_runs(normalised, size))


def span_of(text: str, run: str) -> tuple[int, int]:
    """Where in a text a normalised run begins and ends; (0, 0) if it is not there."""
    places: list[int] = []
    plain = ""
    for place, char in enumerate(text):
        kept = normalise(char)
        plain += kept
        places.extend([place] * len(kept))
    start = plain.find(run)
    if start < 0 or not run:
        return 0, 0
    return places[start], places[start + len(run) - 1] + 1


class CopyIndex:
    """Finds what a text takes over from known ones, in time linear in the text."""

    def __init__(self, min_run: int = 8, fold: Callable[[str], str] = str) -> None:
        """Know no text yet.

        Args:
            min_run: Shorter runs are not looked for.
            fold: Gives characters that count as the same one spelling. The text stays as long as
                it was, so that runs are told as they are written.
        """
        self._min_run = min_run
        self._fold = fold
        self._sources: list[tuple[str, str]] = []
        self._places: dict[str, list[tuple[int, int]]] = defaultdict(list)

    def add(self, source: str, text: str) -> None:
        """Make a text known under the name `source`."""
        key = self._fold(normalise(text))
        self._sources.append((source, key))
        for start, run in enumerate(_runs(key, self._min_run)):
            self._places[run].append((len(self._sources) - 1, start))

    def find(self, text: str) -> Copy | None:
        """The longest run shared with any source; None if all are shorter than `min_run`."""
        normalised = normalise(text)
        key = self._fold(normalised)
        longest, found = "", ""
        start = 0
        while start <= len(key) - self._min_run:
            source, length = self._longest_at(key, start)
            if length > len(longest):
                longest, found = normalised[start : start + length], source
            # A longer run cannot start inside this one and end before it does.
            start += max(1, length - self._min_run + 1)
        return Copy(found, longest, len(longest) / len(key)) if longest else None

    def _longest_at(self, key: str, start: int) -> tuple[str, int]:
        best, found = 0, ""
        for number, place in self._places.get(key[start : start + self._min_run], ()):
            name, source = self._sources[number]
            length = _common_length(key, start, source, place)
            if length > best:
                best, found = length, name
        return found, best


def _runs(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(len(text) - size + 1))


def _common_length(one: str, start: int, other: str, place: int) -> int:
    length = 0
    limit = min(len(one) - start, len(other) - place)
    while length < limit and one[start + length] == other[place + length]:
        length += 1
    return length
