"""Duplicates and copies are marked; nothing is dropped."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tests.clients.test_copies import OTHER, SOURCE
from verse.records import Candidate, Poem
from verse.similarity import normalise
from verse_clients.copies import CopyLimits
from verse_clients.generate.screening import Screen

TEXTS = st.lists(st.text(alphabet="山水月亮风火，\n", max_size=14), max_size=12)


def candidates(texts: list[str]) -> list[Candidate]:
    return [Candidate(theme="河", text=text, sample=number) for number, text in enumerate(texts)]


def marked(texts: list[str], screen: Screen | None = None) -> list[Candidate]:
    screen = screen or Screen()
    return [screen.marked(poem) for poem in candidates(texts)]


def test_a_poem_that_repeats_an_earlier_one_names_it() -> None:
    first, again, near, other = marked(
        [OTHER[:40], f"{OTHER[:20]}，\n{OTHER[20:40]}。", OTHER[:38] + "河水", OTHER[40:80]]
    )
    assert (first.duplicate_of, first.blocked) == (None, None)
    assert (again.duplicate_of, again.blocked) == (first.id, "duplicate")
    assert near.duplicate_of == first.id
    assert other.duplicate_of is None


def test_how_near_is_too_near_is_the_callers() -> None:
    texts = [OTHER[:40], OTHER[:30] + SOURCE[:10]]
    assert marked(texts, Screen(near=0.7))[1].blocked == "duplicate"
    assert marked(texts, Screen(near=0.8))[1].blocked is None
    assert marked([OTHER[:40], OTHER[:39]], Screen(near=1.0))[1].blocked is None


def test_an_accepted_poem_is_not_to_be_written_again() -> None:
    accepted = Poem(theme="河", text=OTHER[:40], origin="accepted")
    (poem,) = marked([OTHER[:40]], Screen(accepted=[accepted]))
    assert poem.duplicate_of == accepted.id


def test_a_copy_names_the_poem_and_the_run_and_only_a_long_one_is_blocked() -> None:
    screen = Screen([Poem(theme="河", text=SOURCE)], limits=CopyLimits())
    told, blocked = marked([OTHER[:40] + SOURCE[:9], OTHER[40:80] + SOURCE[:14]], screen)
    assert (told.copied_from, told.copied_run, told.blocked) == ("《河》", SOURCE[:9], None)
    assert (blocked.copied_from, blocked.blocked) == ("《河》", "copy")


def test_an_empty_poem_is_kept_from_the_judge() -> None:
    assert [poem.blocked for poem in marked(["", " \n"])] == ["empty", "empty"]


def test_poems_of_an_earlier_run_are_known() -> None:
    screen = Screen()
    (before,) = candidates([OTHER[:40]])
    screen.remember(before)
    assert screen.marked(Candidate(theme="雨", text=OTHER[:40])).duplicate_of == before.id


@given(TEXTS)
def test_marks_change_nothing_else_and_nothing_is_dropped(texts: list[str]) -> None:
    plain = {"duplicate_of": None, "copied_from": None, "copied_run": "", "blocked": None}
    found = [msgspec.structs.replace(poem, **plain) for poem in marked(texts)]
    assert found == candidates(texts)


@given(st.lists(st.tuples(st.sampled_from([OTHER[:20], OTHER[20:40], SOURCE]), st.booleans())))
def test_of_whole_poems_alike_the_first_stays_whatever_came_before(
    drawn: list[tuple[str, bool]],
) -> None:
    screen = Screen([Poem(theme="河", text=SOURCE)])
    poems = [
        screen.marked(
            Candidate(theme="河", text=text, sample=n, finish_reason="length" if cut else "stop")
        )
        for n, (text, cut) in enumerate(drawn)
    ]
    whole = [poem for poem in poems if poem.finish_reason == "stop" and poem.text != SOURCE]
    stays = [poem for poem in whole if poem.blocked is None]
    first = {poem.text: poem for poem in reversed(whole)}
    assert {poem.text: poem for poem in stays} == first
    assert len(stays) == len(first)
    again = Screen([Poem(theme="河", text=SOURCE)])
    for poem in poems[:-1]:
        again.remember(poem)
    if poems:
        plain = msgspec.structs.replace(
            poems[-1], duplicate_of=None, copied_from=None, copied_run="", blocked=None
        )
        assert again.marked(plain) == poems[-1]


@given(TEXTS)
def test_equal_poems_are_duplicates_of_one_that_came_before(texts: list[str]) -> None:
    seen: dict[str, str] = {}
    ids: set[str] = set()
    for poem in marked(texts):
        assert poem.duplicate_of is None or poem.duplicate_of in ids
        plain = normalise(poem.text)
        if plain and plain in seen:
            assert poem.duplicate_of is not None
        if poem.text.strip():
            seen.setdefault(plain, poem.id)
            ids.add(poem.id)
