"""What a poem takes over from training poems."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.test_similarity import SIMPLIFIED, TRADITIONAL, pairs
from verse.records import Poem
from verse.similarity import comparison_key, normalise, one_script, span_of
from verse_clients.copies import CopyCheck, CopyLimits
from verse_clients.measures import Yardstick
from verse_clients.refine.guard import Guard, Limits

SOURCE = "河水流过我的窗前带走一页没有写完的信和祖母的铜顶针"
OTHER = "".join(chr(0x7000 + 13 * n) for n in range(80))
"""Text that shares nothing with the source."""
RUNS = st.text(alphabet=[chr(0x5000 + n) for n in range(400)], min_size=40, max_size=60)


def check(limits: CopyLimits = CopyLimits()) -> CopyCheck:  # noqa: B008
    known = CopyCheck(limits)
    known.add("《河》", SOURCE)
    known.add("《山》", "".join(chr(0x6000 + 11 * n) for n in range(60)))
    return known


@pytest.mark.parametrize(
    ("length", "is_told", "is_blocked"),
    [(7, False, False), (8, True, False), (12, True, False), (13, True, True), (20, True, True)],
)
def test_a_run_is_told_from_eight_and_blocked_from_thirteen_characters(
    length: int, is_told: bool, is_blocked: bool
) -> None:
    found = check().find(f"{OTHER[:30]}，{SOURCE[:length]}。\n{OTHER[30:60]}")
    assert (found is not None) == is_told
    if found is not None:
        assert (found.source, found.run) == ("《河》", SOURCE[:length])
        assert found.is_blocked == is_blocked


def test_half_a_poem_is_too_much_however_short() -> None:
    found = check().find(SOURCE[:8] + OTHER[:7])
    assert found is not None
    assert found.is_blocked
    assert found.share == pytest.approx(8 / 15)


def test_a_poem_stitched_from_short_pieces_of_one_source_is_blocked() -> None:
    stitched = f"{SOURCE[:7]}，\n{SOURCE[9:16]}，\n{SOURCE[18:25]}。"
    found = check().find(stitched)
    assert found is not None
    assert (found.source, found.run, found.is_blocked) == ("《河》", "", True)
    assert found.share >= 0.5


def test_line_breaks_and_punctuation_hide_nothing() -> None:
    found = check().find("\n".join(f"{char}，" for char in SOURCE))
    assert found is not None
    assert (found.run, found.share) == (SOURCE, 1.0)


def test_the_limits_are_the_callers() -> None:
    poem = OTHER[:40] + SOURCE[:9]
    assert check(CopyLimits(warn=10)).find(poem) is None
    found = check(CopyLimits(block=9)).find(poem)
    assert found is not None
    assert found.is_blocked


def test_nothing_is_copied_from_nothing() -> None:
    assert CopyCheck().find(SOURCE) is None
    assert check().find("") is None
    assert check().find("，。") is None


@given(RUNS, st.integers(0, 20), st.integers(13, 20), st.integers(0, 40))
def test_a_planted_run_of_thirteen_is_always_found_and_blocked(
    source: str, start: int, length: int, place: int
) -> None:
    known = CopyCheck()
    known.add("s", source)
    run = source[start : start + length]
    found = known.find(OTHER[:place] + run + OTHER[place:])
    assert found is not None
    assert found.is_blocked
    assert run in found.run
    assert 0 < found.share <= 1


@given(RUNS, RUNS)
def test_what_is_told_is_really_in_both(source: str, poem: str) -> None:
    known = CopyCheck()
    known.add("s", source)
    found = known.find(poem)
    if found is not None:
        assert found.run in source
        assert found.run in poem
        assert found.is_blocked or len(found.run) >= 8


@given(pairs(), st.booleans())
def test_a_copy_in_the_other_script_is_found_as_it_is_written(
    pair: tuple[str, str], is_back: bool
) -> None:
    source, poem = reversed(pair) if is_back else pair
    known = CopyCheck()
    known.add("《别的》", "山" * 30)
    known.add("《河》", source)
    framed = f"（引）\n{poem[:9]}，\n  {poem[9:]}。"
    found = known.find(framed)
    assert found is not None
    assert (found.source, found.is_blocked) == ("《河》", True)
    assert found.run in normalise(framed)
    first, last = span_of(framed, found.run)
    assert normalise(framed[first:last]) == found.run
    assert one_script(found.run) in comparison_key(source)


def test_what_is_measured_with_does_not_leak_in_the_other_script() -> None:
    why = Guard(valid=[Poem(theme="河", text=SIMPLIFIED)]).refusal(TRADITIONAL)
    assert why is not None
    assert why.kind == "leak"
    measured = Yardstick([SIMPLIFIED]).measure([TRADITIONAL])
    assert (measured.copy_rate, measured.similarity) == (1, 1)


def test_a_copy_of_the_second_poem_is_refused_although_the_first_shares_its_beginning() -> None:
    letters = "".join(chr(0x5000 + n) for n in range(36))
    first, second = Poem(theme="A", text=letters[:12]), Poem(theme="B", text=letters[4:18])
    text = letters[:18] + OTHER[:40]
    limits = Limits(CopyLimits(block=14, share=1))
    assert Guard(valid=[second], limits=limits).refusal(text)
    assert Guard(valid=[first, second], limits=limits).refusal(text)
    assert Guard(valid=[second, first], limits=limits).refusal(text)


FEW = st.text(st.sampled_from("abc"), min_size=1, max_size=24)


@given(
    FEW,
    st.lists(FEW, min_size=1, max_size=4),
    FEW,
    st.builds(CopyLimits, warn=st.just(3), block=st.integers(3, 12), share=st.floats(0.3, 1)),
)
def test_another_poem_never_hides_a_refusal(
    text: str, known: list[str], another: str, limits: CopyLimits
) -> None:
    def is_refused(*texts: str) -> bool:
        poems = [Poem(theme="题", text=poem) for poem in texts]
        kept = Guard(valid=poems, limits=Limits(limits, 0.9)).refusal(text)
        learned = Guard(training=poems, limits=Limits(limits, 0.9)).refusal(text)
        assert (kept is None) == (learned is None)
        return kept is not None

    if is_refused(*known):
        assert is_refused(*known, another)
        assert is_refused(another, *known)
