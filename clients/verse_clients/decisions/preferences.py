"""Pairs of a better and a worse poem, as the poet's decisions say it.

The one place that makes them. The latest word on two poems counts, whichever way it was given: by
comparing them, by accepting one and rejecting the other, or by editing one into the other. So no
pair stands beside its reverse.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Literal

from rapidfuzz import fuzz

from verse.records import (
    Candidate,
    Decision,
    PairDecision,
    Poem,
    PreferencePair,
)
from verse.replay import Replay, accepted_poems, final_text, rejected_poems
from verse.similarity import comparison_key

_MAX_PAIRS = 4
"""Of one poem in accepted-over-rejected pairs, so that no poem speaks louder than the others."""
_MAX_LENGTH_RATIO = 1.5
"""Beyond it a pair teaches length, not poetry."""
_MAX_LIKENESS = 90.0
"""Percent; two poems this much alike teach nothing when one was rejected."""


def preference_pairs(replay: Replay) -> Iterator[PreferencePair]:
    """The poet's version over the model's, the winners side by side, accepted over rejected.

    The latest word on two poems counts, whichever way it was given: of these pairs none is the
    reverse of another, neither by the poems nor by their words.
    """
    latest = _LatestWords(replay)
    yield from filter(latest.agrees_with, _edited_pairs(replay))
    yield from filter(latest.agrees_with, _compared_pairs(replay))
    yield from _accepted_pairs(replay, latest)


def _edited_pairs(replay: Replay) -> Iterator[PreferencePair]:
    for verdict in replay.accepted():
        candidate = verdict.candidate
        if verdict.text is not None and verdict.text != candidate.text:
            yield PreferencePair(
                prompt=candidate.theme,
                chosen=verdict.text,
                rejected=candidate.text,
                chosen_source=candidate.id,
                rejected_source=candidate.id,
                reason="edited",
            )


def _compared_pairs(replay: Replay) -> Iterator[PreferencePair]:
    """Both ways if both were said once: a later decision may agree with the earlier one."""
    compared: dict[tuple[str, str], PreferencePair] = {}
    for pair in replay.pairs():
        if pair.verdict in ("left", "right"):
            better, worse = pair.left, pair.right
            if pair.verdict == "right":
                better, worse = worse, better
            compared[better.id, worse.id] = PreferencePair(
                prompt=better.theme,
                chosen=better.text,
                rejected=worse.text,
                chosen_source=better.id,
                rejected_source=worse.id,
                reason="compared",
            )
    yield from compared.values()


def _accepted_pairs(replay: Replay, latest: "_LatestWords") -> Iterator[PreferencePair]:
    rejected: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in rejected_poems(replay):
        rejected[candidate.theme].append(candidate)
    uses: Counter[str] = Counter()
    for poem in accepted_poems(replay):
        for other in rejected[poem.theme]:
            if max(uses[poem.source], uses[other.id]) >= _MAX_PAIRS or not _teaches(poem, other):
                continue
            pair = PreferencePair(
                prompt=poem.theme,
                chosen=poem.text,
                rejected=other.text,
                chosen_source=poem.source,
                rejected_source=other.id,
                reason="accepted",
            )
            if latest.agrees_with(pair):
                uses.update((poem.source, other.id))
                yield pair


_Poem = tuple[Literal["id", "text"], str, str]
"""A poem by its id or by its words, with its theme: contradictions are looked for by both."""


class _LatestWords:
    """Which of two poems was called the better one last.

    A comparison or an edit says it of two poems in one entry; accepting one and rejecting another
    on the same theme says it with the later of the two entries.
    """

    def __init__(self, replay: Replay) -> None:
        self._said: dict[frozenset[_Poem], tuple[int, _Poem | None]] = {}
        self._taken: dict[_Poem, int] = {}
        self._rejected: dict[_Poem, int] = {}
        for place, entry in enumerate(replay.in_effect()):
            if isinstance(entry, PairDecision):
                self._compare(place, entry)
            elif replay.verdict(entry.candidate.id) is entry:
                self._decide(place, entry)

    def agrees_with(self, pair: PreferencePair) -> bool:
        """Whether the latest word on the pair is that its chosen poem is the better one."""
        poems = (
            (_by_id(pair.prompt, pair.chosen_source), _by_id(pair.prompt, pair.rejected_source)),
            (_by_text(pair.prompt, pair.chosen), _by_text(pair.prompt, pair.rejected)),
        )
        return pair.chosen != pair.rejected and all(
            better == worse or self._better(better, worse) == better for better, worse in poems
        )

    def _compare(self, place: int, pair: PairDecision) -> None:
        winner = {"left": 0, "right": 1}.get(pair.verdict)
        theme = (pair.left if winner is None else (pair.left, pair.right)[winner]).theme
        for poems in (
            (_by_id(theme, pair.left.id), _by_id(theme, pair.right.id)),
            (_by_text(theme, pair.left.text), _by_text(theme, pair.right.text)),
        ):
            self._said[frozenset(poems)] = place, None if winner is None else poems[winner]

    def _decide(self, place: int, verdict: Decision) -> None:
        candidate, final = verdict.candidate, final_text(verdict)
        whose = {"accept": self._taken, "edit": self._taken, "reject": self._rejected}
        if verdict.action not in whose:
            return
        new, old = (_by_text(candidate.theme, text) for text in (final, candidate.text))
        for poem in (_by_id(candidate.theme, candidate.id), new):
            whose[verdict.action][poem] = place
        if new != old:
            self._said[frozenset((new, old))] = place, new

    def _better(self, one: _Poem, other: _Poem) -> _Poem | None:
        words = [self._said.get(frozenset((one, other)), (-1, None))]
        for better, worse in ((one, other), (other, one)):
            if better in self._taken and worse in self._rejected:
                words.append((max(self._taken[better], self._rejected[worse]), better))
        return max(words, key=lambda word: word[0])[1]


def _by_id(theme: str, id_: str) -> _Poem:
    return "id", theme, id_


def _by_text(theme: str, text: str) -> _Poem:
    return "text", theme, text


def _teaches(chosen: Poem, rejected: Candidate) -> bool:
    short, long = sorted((len(chosen.text), len(rejected.text)))
    ratio = fuzz.ratio(comparison_key(chosen.text), comparison_key(rejected.text))
    return long <= _MAX_LENGTH_RATIO * short and ratio < _MAX_LIKENESS
