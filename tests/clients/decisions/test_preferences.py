"""Preference pairs: the latest word on two poems counts, and no pair stands beside its reverse."""

from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.clients.curate.conftest import make_session
from verse.records import Candidate, Decision, JournalEntry, PairDecision, PreferencePair
from verse.replay import Replay
from verse_clients.curate.session import CurationSession, PairVerdict
from verse_clients.curate.store import WindowState
from verse_clients.decisions import exports
from verse_clients.decisions.sources import Item

TEXTS = ("雨落在屋檐上了", "河不回头往前走", "灯一盏一盏亮起", "河不回头往前走")
"""Of one length and unlike each other, so that each pair of them teaches; one stands twice."""


def items() -> list[Item]:
    return [
        Item(candidate=Candidate(id=f"poem-{n}", theme="雨", text=text), number=n + 1)
        for n, text in enumerate(TEXTS)
    ]


def pairs(entries: Sequence[JournalEntry]) -> list[PreferencePair]:
    lines = exports.files(entries)["pairs.jsonl"].splitlines()
    return [msgspec.json.decode(line, type=PreferencePair) for line in lines]


class Windows:
    """Windows on one journal, one after the other."""

    def __init__(self) -> None:
        self.session = self._open(())

    def _open(self, entries: Sequence[JournalEntry]) -> CurationSession:
        return make_session(items(), entries, state=WindowState(order="file"))

    def reopen(self) -> None:
        self.session = self._open(list(self.session.replay.entries))

    def decide(self, poem: int, action: str, text: str = "") -> None:
        self.session.go_to(f"poem-{poem}")
        if action == "edit":
            self.session.edit(text)
        else:
            self.session.decide(action)  # pyright: ignore

    def prefer(self, left: int, right: int, verdict: PairVerdict) -> None:
        known = {item.id: item for item in self.session.items}
        self.session.compare(known[f"poem-{left}"], known[f"poem-{right}"], verdict)


Step = Callable[[Windows], object]
poem_numbers = st.integers(0, len(TEXTS) - 1)
verdicts: st.SearchStrategy[PairVerdict] = st.sampled_from(("left", "right", "tie", "both_bad"))


def _decide(poem: int, action: str) -> Step:
    return lambda app: app.decide(poem, action)


def _edit(poem: int, text: str) -> Step:
    return lambda app: app.decide(poem, "edit", text)


def _prefer(left: int, steps: int, verdict: PairVerdict) -> Step:
    return lambda app: app.prefer(left, (left + steps) % len(TEXTS), verdict)


PLAIN: tuple[Step, ...] = (
    lambda app: app.session.undo(),
    lambda app: app.session.redo(),
    lambda app: app.session.rate(3),
    lambda app: app.reopen(),
)
steps: st.SearchStrategy[Step] = st.one_of(
    st.builds(_decide, poem_numbers, st.sampled_from(("accept", "reject", "skip"))),
    st.builds(_edit, poem_numbers, st.sampled_from([*TEXTS, "把窗子推开一寸呀"])),
    st.builds(_prefer, poem_numbers, st.integers(1, len(TEXTS) - 1), verdicts),
    st.sampled_from(PLAIN),
)

Word = tuple[int, str, str, str, str, bool]
"""When, the better poem's id and text, the worse one's, and whether one is better at all."""


def all_words(replay: Replay) -> list[Word]:
    """Slowly and plainly: every word that any entries say about any two poems, in order."""
    standing = list(replay.in_effect())
    decided = [
        (place, entry)
        for place, entry in enumerate(standing)
        if isinstance(entry, Decision) and replay.verdict(entry.candidate.id) is entry
    ]
    words: list[Word] = []
    for place, entry in enumerate(standing):
        if isinstance(entry, PairDecision):
            left, right = entry.left, entry.right
            better, worse = (right, left) if entry.verdict == "right" else (left, right)
            clear = entry.verdict in ("left", "right")
            words.append((place, better.id, better.text, worse.id, worse.text, clear))
    for when, taken in decided:
        if taken.action not in ("accept", "edit"):
            continue
        poem, final = taken.candidate, taken.text or taken.candidate.text
        if final != poem.text:
            words.append((when, poem.id, final, poem.id, poem.text, True))
        for later, other in decided:
            if other.action == "reject":
                worse = other.candidate
                words.append((max(when, later), poem.id, final, worse.id, worse.text, True))
    return sorted(words, key=lambda word: word[0])


def expected(replay: Replay) -> set[tuple[str, str, str, str]]:
    """Words that agree with the latest ones about the same two poems and the same two texts."""
    words = all_words(replay)
    kept: set[tuple[str, str, str, str]] = set()
    for _, better_id, better, worse_id, worse, clear in words:
        on_poems = [word for word in words if {word[1], word[3]} == {better_id, worse_id}][-1]
        on_texts = [word for word in words if {word[2], word[4]} == {better, worse}][-1]
        agree = on_poems[5] and on_texts[5] and on_texts[2] == better
        if clear and better != worse and agree and on_poems[1] == better_id:
            kept.add((better_id, better, worse_id, worse))
    return kept


@settings(max_examples=300)
@given(st.lists(steps, max_size=14))
def test_by_no_path_of_actions_a_pair_stands_beside_its_reverse(
    path: list[Step],
) -> None:
    app = Windows()
    for step in path:
        step(app)
    found = pairs(app.session.replay.entries)
    by_text = {(pair.prompt, pair.chosen, pair.rejected) for pair in found}
    by_poem = {
        (pair.chosen_source, pair.rejected_source)
        for pair in found
        if pair.chosen_source != pair.rejected_source
    }
    assert not {(prompt, worse, better) for prompt, better, worse in by_text} & by_text
    assert not {(worse, better) for better, worse in by_poem} & by_poem
    # Nothing more is left out than that: the rest is what the entries say, word by word.
    exported = {(p.chosen_source, p.chosen, p.rejected_source, p.rejected) for p in found}
    assert exported == expected(app.session.replay)


def test_a_comparison_that_was_reversed_counts_where_a_later_decision_agrees_with_it() -> None:
    app = Windows()
    for step in (
        _edit(1, TEXTS[0]),  # so that accepting it over the other one says nothing of two texts
        _edit(2, TEXTS[1]),
        _prefer(0, 1, "right"),
        _prefer(0, 1, "left"),
    ):
        step(app)
    assert ("poem-1", "poem-0", "compared") not in said(pairs(app.session.replay.entries))
    app.decide(0, "reject")
    assert ("poem-1", "poem-0", "compared") in said(pairs(app.session.replay.entries))


def said(found: Sequence[PreferencePair]) -> list[tuple[str, str, str | None]]:
    return [(pair.chosen_source, pair.rejected_source, pair.reason) for pair in found]


def test_rejecting_the_winner_of_a_comparison_takes_its_word_back() -> None:
    app = Windows()
    app.prefer(0, 1, "left")
    assert said(pairs(app.session.replay.entries)) == [("poem-0", "poem-1", "compared")]
    app.decide(0, "reject")
    app.decide(1, "accept")
    assert said(pairs(app.session.replay.entries)) == [("poem-1", "poem-0", "accepted")]
    app.reopen()
    app.prefer(1, 0, "right")
    assert said(pairs(app.session.replay.entries)) == [("poem-0", "poem-1", "compared")]
    app.session.undo()
    assert said(pairs(app.session.replay.entries)) == [("poem-1", "poem-0", "accepted")]


@pytest.mark.parametrize("verdict", ["tie", "both_bad"])
def test_a_later_tie_leaves_no_pair(verdict: PairVerdict) -> None:
    app = Windows()
    app.decide(0, "accept")
    app.decide(1, "reject")
    app.prefer(0, 1, verdict)
    assert pairs(app.session.replay.entries) == []


def test_an_edit_into_another_poems_words_meets_what_was_said_of_them() -> None:
    app = Windows()
    app.prefer(0, 2, "left")
    app.decide(0, "edit", TEXTS[2])
    found = pairs(app.session.replay.entries)
    assert [(pair.chosen, pair.rejected) for pair in found] == [(TEXTS[2], TEXTS[0])]


def test_two_poems_of_the_same_words_are_no_pair() -> None:
    app = Windows()
    app.prefer(1, 3, "left")
    app.decide(1, "accept")
    app.decide(3, "reject")
    assert pairs(app.session.replay.entries) == []


def test_a_contradicted_pair_takes_no_room_from_others() -> None:
    """A poem stands in four mined pairs at most, not counting those that do not count."""
    texts = [f"{first}落在屋檐上面" for first in "雨风雪月花鸟"]
    session = make_session(
        [Item(candidate=Candidate(theme="雨", text=text), number=n) for n, text in enumerate(texts)]
    )
    session.decide("accept")
    for _ in range(5):
        session.decide("reject")
    session.compare(session.items[0], session.items[1], "right")
    found = pairs(session.replay.entries)
    assert [pair.reason for pair in found] == ["compared", *["accepted"] * 4]
