"""What a poem takes over from training poems."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verse_clients.copies import CopyCheck, CopyLimits

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
