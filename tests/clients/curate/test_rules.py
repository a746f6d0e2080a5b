"""The small rules: differences, likeness, pairs to compare, figures."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clients.curate.conftest import go_to_repeat, make_items, make_session
from verse.decision_journal import edit_distance
from verse.records import Candidate, Poem
from verse_clients.curate import statistics, wording
from verse_clients.curate.keymap import Keymap
from verse_clients.curate.order import next_pair
from verse_clients.curate.queue import Filter
from verse_clients.curate.wording import difference
from verse_clients.decisions.sources import Item
from verse_clients.decisions.tallies import overall
from verse_clients.errors import InputError
from verse_clients.generate.inputs import read_training
from verse_clients.screening import Finding, Inspector

chinese = st.text(st.sampled_from("雨河灯月雪，。\n 🌧𠮷"), max_size=30)


@given(chinese, chinese)
def test_the_difference_spells_both_texts(original: str, edited: str) -> None:
    pieces = difference(original, edited)
    assert "".join(p.text for p in pieces if p.change != "inserted") == original
    assert "".join(p.text for p in pieces if p.change != "deleted") == edited


def test_neighbouring_changes_read_as_one() -> None:
    pieces = difference("我把窗子推开一些", "我把窗子推半寸")
    assert pieces == [("same", "我把窗子推"), ("deleted", "开一些"), ("inserted", "半寸")]


@given(chinese, chinese)
def test_the_distance_is_zero_only_between_equals(one: str, other: str) -> None:
    assert (edit_distance(one, other) == 0) == (one == other)


def test_flags_point_both_ways_and_name_the_training_poem() -> None:
    inspector = Inspector([Poem(theme="夜航", text="今晚的月薄得像一片药")])
    items = [
        Item(candidate=Candidate(theme="月", text="今晚的月\n薄得像一片药", sample=1)),
        Item(candidate=Candidate(theme="月", text="今晚的月，薄得像一片药", sample=2)),
        Item(candidate=Candidate(theme="雪", text="雪", finish_reason="length")),
    ]
    kinds = [
        (poem, found.reason, found.other)
        for poem, found in inspector.findings(item.candidate for item in items)
    ]
    assert (items[0].id, "near", items[1].id) in kinds
    assert (items[1].id, "near", items[0].id) in kinds
    assert (items[0].id, "copy", "《夜航》") in kinds
    assert (items[2].id, "truncated", "") in kinds


def test_a_poem_with_a_models_thinking_in_it_has_a_badge_and_a_filter() -> None:
    poem = Candidate(theme="雨", text="雨停了。\n<think>换一个词", blocked="thought")
    session = make_session([Item(candidate=poem, number=1), *make_items(3)])
    session.add_flags(Inspector().findings(item.candidate for item in session.items))
    [flag] = session.flags(poem.id)
    assert wording.flag_line(flag, session) == "holds a model's thinking"
    assert not wording.leads_somewhere(flag)
    session.set_filter(Filter(flag="thought"))
    assert [slot.item.id for slot in session.visible] == [poem.id]
    assert wording.filter_line(session.filter) == "thinking"


def test_a_training_file_that_is_missing_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_training([tmp_path / "none.jsonl"])


def test_pairs_share_a_theme_and_never_come_twice() -> None:
    session = make_session(12)
    seen: set[frozenset[str]] = set()
    while pair := next_pair(session.items, session.replay, random.Random(1)):
        left, right = pair
        assert left.candidate.theme == right.candidate.theme
        assert frozenset((left.id, right.id)) not in seen
        seen.add(frozenset((left.id, right.id)))
        session.compare(left, right, "tie")
    assert len(seen) >= 12 / 2


def test_rejected_poems_are_not_compared() -> None:
    session = make_session(6)
    for _ in range(5):
        session.decide("reject")
    assert next_pair(session.items, session.replay, random.Random(1)) is None


def test_left_and_right_are_drawn_by_chance() -> None:
    session = make_session(6)
    firsts = {
        pair[0].id
        for seed in range(20)
        if (pair := next_pair(session.items, session.replay, random.Random(seed)))
    }
    assert len(firsts) == 2


def test_progress_counts_shares_and_time() -> None:
    session = make_session(10)
    for action in ("accept", "accept", "reject", "skip"):
        session.decide(action)
    now = statistics.progress(len(session.items), session.verdicts(), session.replay)
    assert (now.decided, now.total, now.skipped) == (3, 10, 1)
    assert now.share == pytest.approx(2 / 3)
    assert now.per_minute == pytest.approx(6)
    assert now.minutes_left == pytest.approx(1)
    assert wording.progress_line(session) == (
        "3 of 10 · 67% accepted · 1 skipped · 6.0 a minute · 1 min left"
    )


def test_tallies_name_the_source_and_add_up() -> None:
    session = make_session(make_items(6, mixed=True))
    session.decide("accept")
    session.edit("改")
    session.decide("reject")
    tallies = statistics.by_source(session.replay)
    assert {(t.name, t.accepted, t.edited, t.rejected) for t in tallies} == {
        ("xuzhimo@60", 1, 0, 0), ("hushi@80", 0, 1, 0), ("base@60", 0, 0, 1),
    }  # fmt: skip
    assert overall(session.replay.verdicts())[1:] == (1, 1, 1)
    assert statistics.running_share(session.replay) == [1, 1, pytest.approx(2 / 3)]


def test_repeats_tell_how_constant_the_poet_is() -> None:
    session = make_session(100)
    for _ in range(40):
        session.decide("accept")
    session.set_order("active", 1)
    go_to_repeat(session)
    session.decide("reject")
    go_to_repeat(session)
    session.decide("accept")
    assert statistics.consistency(session.replay) == (1, 2)


def test_a_badge_names_the_other_poem_and_how_alike_it_is() -> None:
    session = make_session()
    near = Finding("near", session.items[3].id, ratio=0.92)
    assert wording.flag_line(near, session) == "92% like No. 4"
    assert (
        wording.flag_line(Finding("near", session.items[3].id, ratio=1.0), session)
        == "same as No. 4"
    )
    copy = Finding("copy", "《夜航》", "今晚的月薄得像一片药", 0.5)
    assert wording.flag_line(copy, session) == "10 characters copied from 《夜航》"
    stitched = Finding("copy", "《夜航》", ratio=0.6)
    assert wording.flag_line(stitched, session) == "60% pieced together from 《夜航》"


def test_the_last_decision_is_named_without_its_source() -> None:
    session = make_session()
    session.decide("accept")
    last = session.replay.verdict(session.items[0].id)
    assert wording.last_line(last, Keymap()) == "Accepted: 《雨》 第0首 · u to undo"
    assert "xuzhimo" not in wording.position_line(session)


def test_a_filter_is_put_into_words() -> None:
    filter_ = Filter(state="open", theme="雨", flag="copy", search="月")
    assert wording.filter_line(filter_) == "undecided, 《雨》, copies, “月”"
    assert wording.filter_line(Filter()) == ""


def test_what_waits_for_the_disk_is_counted() -> None:
    assert wording.unsaved_line(0, None) == ""
    assert wording.unsaved_line(2, "No space left on device").startswith(
        "2 decisions are not saved yet"
    )


def test_items_of_the_base_are_called_base() -> None:
    assert [item.source for item in make_items(3, mixed=True)] == [
        "xuzhimo@60",
        "hushi@80",
        "base@60",
    ]
