from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clients.curate.conftest import Clock, go_to_repeat, make_items, make_session
from verse.decision_journal import open_journal
from verse.records import Decision, JournalEntry, PairDecision
from verse.replay import Replay
from verse_clients.curate.queue import Filter
from verse_clients.curate.session import CurationSession
from verse_clients.curate.store import WindowState
from verse_clients.screening import Finding

Step = Callable[[CurationSession], object]


def _compare(session: CurationSession) -> None:
    session.compare(session.items[0], session.items[3], "left")


STEPS: dict[str, Step] = {
    "accept": lambda s: s.decide("accept"),
    "reject": lambda s: s.decide("reject"),
    "skip": lambda s: s.decide("skip"),
    "edit": lambda s: s.edit("改过的\n诗"),
    "edit to the same": lambda s: s.edit(s.current.item.candidate.text if s.current else ""),
    "rate": lambda s: s.rate(4),
    "compare": _compare,
    "undo": lambda s: s.undo(),
    "redo": lambda s: s.redo(),
    "next": lambda s: s.move(1),
    "back": lambda s: s.move(-1),
    "blind": lambda s: s.toggle_blind(),
    "undecided only": lambda s: s.set_filter(Filter(state="open")),
    "one theme": lambda s: s.set_filter(Filter(theme="雨")),
    "all": lambda s: s.set_filter(Filter()),
    "active": lambda s: s.set_order("active", 3),
    "file": lambda s: s.set_order("file"),
}
actions = st.lists(st.sampled_from(sorted(STEPS)), max_size=40)


def state_of(replay: Replay, session: CurationSession) -> dict[str, object]:
    """What counts, without how it came about."""
    return {
        "verdicts": {i.id: v and (v.action, v.text) for i in session.items
                     for v in [replay.verdict(i.id)]},
        "stars": {item.id: replay.stars(item.id) for item in session.items},
        "pairs": [(pair.left.id, pair.right.id, pair.verdict) for pair in replay.pairs()],
    }  # fmt: skip


def do_all(session: CurationSession, names: list[str]) -> None:
    for name in names:
        STEPS[name](session)


@given(actions)
def test_any_actions_then_undo_all_is_the_start(names: list[str]) -> None:
    session = make_session()
    start = state_of(session.replay, session)
    do_all(session, names)
    while session.undo() is not None:
        pass
    assert state_of(session.replay, session) == start


@given(actions)
def test_undo_all_then_redo_all_is_where_it_was(names: list[str]) -> None:
    session = make_session()
    do_all(session, names)
    before = state_of(session.replay, session)
    steps = 0
    while session.undo() is not None:
        steps += 1
    for _ in range(steps):
        assert session.redo() is not None
    assert state_of(session.replay, session) == before


@given(actions)
def test_replaying_the_journal_gives_the_state(names: list[str]) -> None:
    journal: list[JournalEntry] = []
    session = make_session(write=journal.append)
    do_all(session, names)
    assert journal == session.replay.entries
    assert state_of(Replay(journal), session) == state_of(session.replay, session)


@given(actions)
def test_a_reopened_journal_has_the_same_undo(names: list[str]) -> None:
    session = make_session()
    do_all(session, names)
    again = make_session(entries=session.replay.entries)
    undone, undone_again = session.undo(), again.undo()
    assert undone == undone_again
    assert state_of(again.replay, again) == state_of(session.replay, session)


@given(actions, st.floats(0, 1))
def test_a_journal_cut_at_any_byte_opens_with_at_most_one_entry_gone(
    names: list[str], share: float
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "decisions.jsonl"
        store = open_journal(path)
        session = make_session(write=store.write)
        do_all(session, names)
        store.close()
        whole = path.read_bytes()
        cut = round(share * len(whole))
        path.write_bytes(whole[:cut])
        reopened = open_journal(path)
        complete = whole[:cut].count(b"\n")
        assert reopened.entries in (
            session.replay.entries[:complete],
            session.replay.entries[: complete + 1],
        )
        num_entries = len(reopened.entries)
        assert reopened.write(Decision(
            action="skip", candidate=session.items[0].candidate, blind=True, time=Clock()()
        ))  # fmt: skip
        reopened.close()
        assert len(open_journal(path).entries) == num_entries + 1


@given(actions)
def test_the_cursor_is_always_on_a_poem_that_is_shown(names: list[str]) -> None:
    session = make_session()
    for name in names:
        STEPS[name](session)
        assert (session.current in session.visible) if session.visible else not session.current


def test_a_decision_moves_on_to_the_next_undecided_poem() -> None:
    session = make_session()
    session.move(2)
    session.decide("accept")
    session.move(-2)
    session.decide("reject")  # No. 2; No. 3 is decided already
    assert session.current is not None
    assert session.current.item.number == 4


def test_the_entry_is_written_before_the_next_poem_shows() -> None:
    shown: list[int] = []
    session = make_session(write=lambda _: shown.append(session.cursor))
    session.decide("accept")
    session.decide("reject")
    assert shown == [0, 1]


def test_stars_decide_nothing_and_stay() -> None:
    session = make_session()
    session.rate(5)
    assert session.cursor == 0
    assert session.verdict is None
    assert session.replay.stars(session.items[0].id) == 5


def test_an_edit_keeps_the_original_and_its_distance() -> None:
    session = make_session()
    original = session.items[0].candidate.text
    session.edit(original + "啊")
    verdict = session.replay.verdict(session.items[0].id)
    assert verdict is not None
    assert (verdict.action, verdict.text, verdict.edit_distance) == ("edit", original + "啊", 1)
    assert verdict.candidate.text == original


def test_an_edit_that_changes_nothing_is_an_acceptance() -> None:
    session = make_session()
    session.edit(session.items[0].candidate.text)
    verdict = session.replay.verdict(session.items[0].id)
    assert verdict is not None
    assert (verdict.action, verdict.text) == ("accept", None)


def test_undo_returns_to_the_poem_even_if_a_filter_hides_it() -> None:
    session = make_session()
    session.decide("accept")
    session.set_filter(Filter(theme="河"))
    session.undo()
    assert session.current is not None
    assert session.current.item == session.items[0]


def test_redo_moves_on_like_the_decision_itself() -> None:
    session = make_session()
    session.decide("accept")
    session.undo()
    assert session.cursor == 0
    session.redo()
    assert session.cursor == 1


def test_a_new_decision_ends_redoing() -> None:
    session = make_session()
    session.decide("accept")
    session.undo()
    session.decide("reject")
    assert session.redo() is None


def test_decisions_are_blind_until_the_source_was_seen() -> None:
    session = make_session()
    session.decide("accept")
    session.toggle_blind()
    session.decide("accept")
    session.toggle_blind()
    session.move(-2)
    session.decide("reject")  # its source was never shown
    session.move(-1)
    session.decide("reject")  # this one's was
    blind = [e.blind for e in session.replay.entries if isinstance(e, Decision)]
    assert blind == [True, False, True, False]


def test_a_source_seen_on_the_way_makes_the_later_decision_open() -> None:
    session = make_session()
    session.toggle_blind()
    session.move(1)
    session.toggle_blind()
    session.decide("accept")
    entry = session.replay.entries[-1]
    assert isinstance(entry, Decision)
    assert not entry.blind


def test_a_skipped_poem_stays_blind() -> None:
    session = make_session()
    session.decide("skip")
    session.move(-1)
    assert not session.source_shown
    session.decide("accept")
    entry = session.replay.entries[-1]
    assert isinstance(entry, Decision)
    assert entry.blind


def test_an_empty_edit_is_not_taken() -> None:
    session = make_session()
    assert not session.edit(" \n")
    assert session.replay.entries == []
    assert session.edit("雨")


def test_undoing_a_repeat_returns_to_its_place_in_the_queue() -> None:
    session = make_session(100)
    for _ in range(40):
        session.decide("accept")
    session.set_order("active", 1)
    go_to_repeat(session)
    repeat = session.current
    session.decide("reject")
    session.undo()
    assert session.current == repeat


def test_a_filter_by_adapter_gives_the_source_away() -> None:
    session = make_session(make_items(6, mixed=True), state=WindowState(order="shuffle"))
    session.set_filter(Filter(adapter="hushi"))
    session.decide("accept")
    entry = session.replay.entries[-1]
    assert isinstance(entry, Decision)
    assert not entry.blind


def test_the_source_is_hidden_before_and_after_the_decision_until_it_is_asked_for() -> None:
    session = make_session()
    assert not session.source_shown
    session.decide("accept")
    session.move(-1)
    assert not session.source_shown
    session.toggle_blind()
    assert session.source_shown


@pytest.mark.parametrize(
    ("filter_", "numbers"),
    [
        (Filter(state="open"), [3, 4, 5, 6]),
        (Filter(state="accepted"), [1, 2]),
        (Filter(state="edited"), [2]),
        (Filter(state="rejected"), []),
        (Filter(state="starred"), [3]),
        (Filter(theme="雨"), [1, 4]),
        (Filter(adapter="base"), [3, 6]),
        (Filter(flag="near"), [5]),
        (Filter(search="第4首"), [5]),
        (Filter(search="改过"), [2]),
    ],
)
def test_a_filter_shows_what_it_says(filter_: Filter, numbers: list[int]) -> None:
    session = make_session(make_items(6, mixed=True))
    items = make_items(6, mixed=True)
    session.decide("accept")
    session.edit("改过的诗")
    session.rate(3)
    session.add_flags([(items[4].id, Finding("near", items[0].id, ratio=0.9))])
    session.set_filter(filter_)
    assert [slot.item.number for slot in session.visible] == numbers


def test_a_poem_just_decided_stays_in_a_filter_for_undecided_ones() -> None:
    session = make_session(state=WindowState(filter=Filter(state="open")))
    session.decide("accept")
    session.move(-1)
    assert session.verdict is not None


def test_reopening_lands_on_the_kept_poem() -> None:
    session = make_session()
    session.decide("accept")
    session.move(3)
    again = make_session(entries=session.replay.entries, state=session.state())
    assert again.current == session.current


def test_a_journal_newer_than_the_kept_place_goes_on_behind_its_last_decision() -> None:
    session = make_session()
    state = session.state()
    session.decide("accept")
    session.decide("reject")
    again = make_session(entries=session.replay.entries, state=state)
    assert again.current == session.current
    assert again.cursor == 2


def test_a_kept_filter_for_undecided_poems_survives_a_newer_journal() -> None:
    session = make_session(state=WindowState(filter=Filter(state="open")))
    state = session.state()
    session.move(2)
    session.decide("accept")
    again = make_session(entries=session.replay.entries, state=state)
    assert again.filter == Filter(state="open")
    assert again.current == session.current
    assert again.current is not None
    assert again.current.item.number == 4


def test_a_journal_that_was_cut_opens_at_the_poem_whose_decision_is_gone() -> None:
    session = make_session()
    session.decide("accept")
    lost = session.current
    session.decide("reject")
    again = make_session(entries=session.replay.entries[:1], state=session.state())
    assert again.current == lost


def test_a_journal_that_ends_in_stars_opens_at_their_poem() -> None:
    session = make_session()
    state = session.state()
    session.decide("accept")
    session.rate(3)
    again = make_session(entries=session.replay.entries, state=state)
    assert again.current == session.current


def test_a_journal_that_ends_in_an_undo_opens_at_the_undone_poem() -> None:
    session = make_session()
    session.decide("accept")
    session.decide("reject")
    session.undo()
    again = make_session(entries=session.replay.entries, state=WindowState())
    assert again.current == session.current
    assert again.cursor == 1


def test_new_poems_come_right_behind_the_current_one() -> None:
    session = make_session(3)
    fresh = make_items(5)[3:]
    session.add_items([*fresh, session.items[0]])
    session.decide("accept")
    assert session.current is not None
    assert session.current.item == fresh[0]
    assert len(session.items) == 5


def test_the_same_poem_twice_in_the_files_is_shown_once() -> None:
    session = make_session([*make_items(3), *make_items(3)])
    assert [item.number for item in session.items] == [1, 2, 3]


def test_a_comparison_is_kept_and_undone_like_any_decision() -> None:
    session = make_session()
    _compare(session)
    assert [pair.verdict for pair in session.replay.pairs()] == ["left"]
    assert isinstance(session.undo(), PairDecision)
    assert not list(session.replay.pairs())


def test_times_of_the_journal_come_from_the_clock() -> None:
    session = make_session()
    do_all(session, ["accept", "reject", "undo"])
    gaps = {later.time - earlier.time for earlier, later in pairwise(session.replay.entries)}
    assert {gap.total_seconds() for gap in gaps} == {10.0}


def test_an_empty_queue_takes_keys_without_an_entry() -> None:
    session = make_session(state=WindowState(filter=Filter(search="没有这样的诗")))
    do_all(session, ["accept", "edit", "rate", "next", "back"])
    assert session.current is None
    assert session.replay.entries == []
