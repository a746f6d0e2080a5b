"""Texts that are nearly the same: candidates by rare shingles, then the edit ratio by rapidfuzz."""

from collections import Counter, defaultdict
from typing import NamedTuple

from rapidfuzz import fuzz

from verse.likeness import shingles
from verse_clients.comparison_key import comparison_key

_SHINGLE = 3
_MIN_SHARED = 0.2
"""Texts with fewer of their shingles in common cannot reach the thresholds used here."""
_MAX_SHARERS = 64
"""A shingle that more texts hold than this says nothing about which two are alike."""


class Twin(NamedTuple):
    """An earlier text that is nearly the same."""

    key: str
    ratio: float
    """0 to 1; 1 for texts that only differ in punctuation, spacing and script."""


class NearDuplicates:
    """Texts seen so far; tells of a new one which earlier one it resembles most."""

    def __init__(self, threshold: float = 0.8) -> None:
        """Texts with an edit ratio below `threshold`, 0 to 1, count as different."""
        self._threshold = threshold
        self._texts: list[tuple[str, str]] = []
        self._exact: dict[str, int] = {}
        self._holders: dict[str, list[int]] = defaultdict(list)

    def add(self, key: str, text: str) -> Twin | None:
        """Remember a text, and return the earlier one most like it, if one is like enough."""
        twin = self.find(text)
        if compared := comparison_key(text):
            self._remember(key, compared, shingles(compared, _SHINGLE))
        return twin

    def find(self, text: str) -> Twin | None:
        """The earlier text most like this one; None if none is like enough."""
        compared = comparison_key(text)
        return self._exact_twin(compared) or self._near_twin(compared, shingles(compared, _SHINGLE))

    def _exact_twin(self, text: str) -> Twin | None:
        number = self._exact.get(text)
        return None if number is None else Twin(self._texts[number][0], 1.0)

    def _near_twin(self, text: str, parts: frozenset[str]) -> Twin | None:
        best: Twin | None = None
        for number in self._sharing(parts):
            key, other = self._texts[number]
            floor = 100 * max(self._threshold, best.ratio if best else 0.0)
            ratio = fuzz.ratio(text, other, score_cutoff=floor) / 100
            if ratio >= self._threshold and (best is None or ratio > best.ratio):
                best = Twin(key, ratio)
        return best

    def _sharing(self, parts: frozenset[str]) -> list[int]:
        shared: Counter[int] = Counter()
        for part in parts:
            shared.update(self._holders.get(part, ()))
        return [number for number, count in shared.items() if count >= _MIN_SHARED * len(parts)]

    def _remember(self, key: str, text: str, parts: frozenset[str]) -> None:
        number = len(self._texts)
        self._texts.append((key, text))
        self._exact.setdefault(text, number)
        for part in parts:
            holders = self._holders[part]
            if len(holders) < _MAX_SHARERS:
                holders.append(number)
