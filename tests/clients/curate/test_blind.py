"""While the poet reads blind, nothing shown and no order follows from what must not be told."""

import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clients.curate.blindness import Hidden, hidden, ranked_file
from tests.clients.curate.conftest import (
    go_to_repeat,
    make_items,
    make_session,
    write_candidates,
)
from verse.records import Candidate, Decision, OrderName, PairDecision, Undo
from verse.replay import is_blind
from verse_clients.curate import wording
from verse_clients.curate.app import open_app
from verse_clients.curate.keymap import Keymap
from verse_clients.curate.order import default_order, is_blind_order, next_pair
from verse_clients.curate.queue import Filter
from verse_clients.curate.session import CurationSession
from verse_clients.curate.store import WindowState, keep_state
from verse_clients.decisions.sources import Item
from verse_clients.screening import Finding, Inspector

Step = Callable[[CurationSession], object]
ALL_ORDERS: tuple[OrderName, ...] = (
    "file", "shuffle", "score", "disagreement", "theme", "active",
)  # fmt: skip


def _compare(session: CurationSession) -> None:
    pair = next_pair(session.items, session.replay, random.Random(1))
    if pair is not None:
        session.compare(*pair, "left")


def _jump(session: CurationSession) -> None:
    slot = session.current
    flags = session.flags(slot.item.id) if slot else ()
    for flag in [flag for flag in flags if flag.reason == "near"][:1]:
        session.go_to(flag.other)


def _more(session: CurationSession) -> None:
    number = len(session.items)
    poem = Candidate(theme="雨", text=f"又一首{number}", id=f"more-{number}", adapter="xuzhimo")
    session.add_items([Item(candidate=poem, number=number + 1)])


STEPS: dict[str, Step] = {
    "accept": lambda s: s.decide("accept"),
    "reject": lambda s: s.decide("reject"),
    "skip": lambda s: s.decide("skip"),
    "edit": lambda s: s.edit("改过的\n诗"),
    "rate": lambda s: s.rate(4),
    "compare": _compare,
    "undo": lambda s: s.undo(),
    "redo": lambda s: s.redo(),
    "next": lambda s: s.move(1),
    "back": lambda s: s.move(-1),
    "jump": _jump,
    "more": _more,
    "undecided only": lambda s: s.set_filter(Filter(state="open")),
    "near-duplicates": lambda s: s.set_filter(Filter(flag="near")),
    "one theme": lambda s: s.set_filter(Filter(theme="雨")),
    "all": lambda s: s.set_filter(Filter()),
    "by theme": lambda s: s.set_order("theme", 5),
    "shuffled": lambda s: s.set_order("shuffle", 6),
}
steps = st.lists(st.sampled_from(sorted(STEPS)), max_size=25)


def shown(session: CurationSession) -> object:
    """Every order, and every sentence that depends on the session."""
    last = session.replay.entries[-1] if session.replay.entries else None
    pair = next_pair(session.items, session.replay, random.Random(2))
    return {
        "queue": [(slot.item.id, slot.repeat) for slot in session.visible],
        "texts": [slot.item.candidate.text for slot in session.visible],
        "cursor": session.cursor,
        "items": [item.id for item in session.items],
        "themes": list(dict.fromkeys(item.candidate.theme for item in session.items)),
        "pair": pair and (pair[0].id, pair[1].id),
        "place": wording.position_line(session),
        "progress": wording.progress_line(session),
        "source": wording.source_text(session, Keymap()),
        "last": wording.last_line(last if isinstance(last, Decision) else None, Keymap()),
        "badges": {
            item.id: [(flag.reason, flag.other, wording.flag_line(flag, session))
                      for flag in session.flags(item.id)]
            for item in session.items
        },
        "filter": wording.filter_line(session.filter),
    }  # fmt: skip


def open_session(items: list[Item], seed: int) -> CurationSession:
    session = make_session(items, state=WindowState(order=default_order(items), seed=seed))
    session.add_flags(Inspector().findings(item.candidate for item in session.items))
    return session


@given(st.lists(hidden(), min_size=2, max_size=14), st.randoms(), steps, st.integers(0, 99))
def test_the_same_poems_with_attributes_exchanged_look_the_same(
    attributes: list[Hidden], rng: random.Random, names: list[str], seed: int
) -> None:
    exchanged = rng.sample(attributes, len(attributes))
    one, other = (open_session(ranked_file(own), seed) for own in (attributes, exchanged))
    assert shown(one) == shown(other)
    for name in names:
        STEPS[name](one)
        STEPS[name](other)
        assert one.blind
        assert other.blind
        assert shown(one) == shown(other), name
    said = [[(is_blind(entry), entry.order, entry.order_seed)
             for entry in session.replay.entries if isinstance(entry, (Decision, PairDecision))]
            for session in (one, other)]  # fmt: skip
    assert said[0] == said[1]


@given(st.lists(hidden(), min_size=4, max_size=14), st.randoms(), st.integers(0, 99))
def test_an_order_that_is_called_blind_does_not_follow_from_what_is_hidden(
    attributes: list[Hidden], rng: random.Random, seed: int
) -> None:
    exchanged = rng.sample(attributes, len(attributes))
    files = [ranked_file(attributes), ranked_file(exchanged)]
    blind: list[OrderName] = [o for o in ALL_ORDERS if is_blind_order(o, files[0])]
    assert "shuffle" in blind
    for order in blind:
        first, second = (
            make_session(items, state=WindowState(order=order, seed=seed)).visible
            for items in files
        )
        assert [slot.item.id for slot in first] == [slot.item.id for slot in second], order


def test_files_that_tell_something_are_shuffled_and_others_are_not() -> None:
    alike = make_items(30)
    assert default_order(alike) == "file"
    assert default_order(make_items(30, mixed=True)) == "shuffle"
    ranked = [msgspec.structs.replace(item, rank=item.number) for item in alike]
    assert default_order(ranked) == "shuffle"
    session = make_session(ranked, state=WindowState(order="shuffle", seed=1))
    ranks = [slot.item.rank for slot in session.visible]
    assert ranks != sorted(range(1, 31))
    assert sorted(slot.item.number for slot in session.visible) == list(range(1, 31))
    other = make_session(ranked, state=WindowState(order="shuffle", seed=2))
    assert [slot.item.rank for slot in other.visible] != ranks


@pytest.mark.parametrize("order", ["file", "score", "disagreement", "active"])
def test_in_an_order_that_tells_the_rank_no_decision_is_blind(order: OrderName) -> None:
    ranked = [
        msgspec.structs.replace(item, rank=item.number, score=5 - item.number / 10)
        for item in make_items(30)
    ]
    session = make_session(ranked, state=WindowState(order=order))
    assert not session.blind
    assert "not blind" in wording.position_line(session)
    session.decide("accept")
    [entry] = session.replay.entries
    assert isinstance(entry, Decision)
    assert (entry.blind, entry.order) == (False, order)
    # What was in view in such an order stays known; what was not can still be read blind.
    known = session.current
    session.set_order("shuffle", 3)
    assert session.blind
    assert session.current == known
    session.decide("accept")
    session.decide("accept")
    blind = [is_blind(e) for e in session.replay.entries if isinstance(e, Decision)]
    assert blind == [False, False, True]


def test_a_source_once_in_view_stays_known_when_the_window_opens_again() -> None:
    session = make_session()
    session.toggle_blind()
    session.move(1)
    session.toggle_blind()
    again = make_session(state=session.state())
    assert again.current == session.current
    again.decide("accept")
    again.decide("accept")
    blind = [is_blind(e) for e in again.replay.entries if isinstance(e, Decision)]
    assert blind == [False, True]


def test_a_poem_like_one_whose_source_was_in_view_is_not_blind() -> None:
    session = make_session(4)
    one, near, other, last = (item.id for item in session.items)
    session.add_flags([(one, Finding("near", near)), (near, Finding("near", one))])
    session.add_flags([(other, Finding("copy", one))])
    session.toggle_blind()
    session.toggle_blind()
    for _ in range(4):
        session.decide("accept")
    session.compare(session.items[1], session.items[3], "left")
    blind = [is_blind(entry) for entry in session.replay.entries if not isinstance(entry, Undo)]
    assert blind == [False, False, True, True, False]
    # What the journal alone says of it is enough when the window opens again.
    again = make_session(4, session.replay.entries[:1])
    again.add_flags([(near, Finding("near", one))])
    again.go_to(near)
    again.decide("reject")
    again.go_to(last)
    again.decide("reject")
    blind = [e.blind for e in again.replay.entries if isinstance(e, Decision)]
    assert blind == [False, False, True]


def test_a_repeat_is_blind_again_unless_its_source_is_shown_with_it() -> None:
    session = make_session(100)
    for _ in range(40):
        session.decide("accept")
    session.set_order("active", 1)
    found: list[bool] = []
    for look in (False, True):
        go_to_repeat(session)
        if look:
            session.toggle_blind()
            session.toggle_blind()
        session.decide("reject")
        entry = session.replay.entries[-1]
        assert isinstance(entry, Decision)
        assert entry.repeat
        found.append(is_blind(entry))
    assert found == [True, False]


def test_a_comparison_is_blind_only_while_neither_source_was_seen() -> None:
    session = make_session()
    items = session.items
    session.compare(items[1], items[4], "left")
    session.toggle_blind()
    session.compare(items[1], items[4], "left")
    session.toggle_blind()
    session.compare(items[0], items[3], "left")  # the first one was in view
    entries = [e for e in session.replay.entries if isinstance(e, PairDecision)]
    assert [is_blind(entry) for entry in entries] == [True, False, False]
    assert [entry.order for entry in entries] == ["file"] * 3


def test_a_changed_mind_is_blind_if_the_first_decision_was() -> None:
    session = make_session()
    session.decide("accept")
    session.undo()
    session.decide("reject")
    entries = [e for e in session.replay.entries if isinstance(e, Decision)]
    assert [is_blind(entry) for entry in entries] == [True, True]
    # A journal that does not say the order shown was written beside a window that told more.
    old = [msgspec.structs.replace(entry, order=None) for entry in entries[:1]]
    session = make_session(entries=old)
    session.move(-1)
    session.decide("reject")
    last = session.replay.entries[-1]
    assert isinstance(last, Decision)
    assert not last.blind


def test_hiding_sources_takes_the_filter_by_adapter_away() -> None:
    items = make_items(9, mixed=True)
    by_adapter = Filter(adapter="hushi", state="open")
    session = make_session(items, state=WindowState(blind=False, filter=by_adapter))
    assert session.filter == by_adapter
    session.toggle_blind()
    assert session.filter == Filter(state="open")
    assert make_session(items, state=WindowState(filter=by_adapter)).filter == Filter(state="open")


def test_a_poem_asked_for_by_the_models_name_is_not_blind() -> None:
    session = make_session(3)
    fresh = make_items(5)[3:]
    session.add_items(fresh[:1], source_known=True)
    session.add_items(fresh[1:])
    session.decide("accept")
    session.decide("accept")
    session.decide("accept")
    blind = {e.candidate.id: is_blind(e) for e in session.replay.entries if isinstance(e, Decision)}
    assert blind[fresh[0].id] is False
    assert blind[fresh[1].id] is True


def test_what_a_server_says_is_shown_without_the_models_name() -> None:
    items = make_items(6, mixed=True)
    said = wording.without_sources(
        "http://127.0.0.1:8000/v1 has no model 'hushi@80'; there are base, xuzhimo and xuzhimo-2.",
        items,
    )
    assert said == "http://127.0.0.1:8000/v1 has no model '…'; there are …, … and xuzhimo-2."


def ranked_json(folder: Path) -> Path:
    path = write_candidates(folder / "ranked.jsonl", 12)
    rows = [
        msgspec.json.decode(line) | {"rank": rank, "score": 5 - rank / 4}
        for rank, line in enumerate(path.read_bytes().splitlines(), 1)
    ]
    path = folder / "ranked.json"
    path.write_bytes(msgspec.json.encode({"poems": rows}))
    return path


def test_a_ranked_file_opens_shuffled_even_where_an_older_window_kept_the_files_order(
    tmp_path: Path,
) -> None:
    journal = tmp_path / "decisions.jsonl"
    keep_state(journal, WindowState(order="file"))
    app = open_app([ranked_json(tmp_path)], journal, Keymap())
    assert (app.session.order, app.session.blind) == ("shuffle", True)
    shown_first = [slot.item.rank for slot in app.session.visible]
    app.keep_state(app.session.state())
    app.journal.close()
    again = open_app([ranked_json(tmp_path)], journal, Keymap())
    assert [slot.item.rank for slot in again.session.visible] == shown_first
    again.session.set_order("file")
    again.keep_state(again.session.state())
    again.journal.close()
    chosen = open_app([ranked_json(tmp_path)], journal, Keymap())
    assert (chosen.session.order, chosen.session.blind) == ("file", False)
    chosen.journal.close()
