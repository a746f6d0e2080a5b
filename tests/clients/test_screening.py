"""What is wrong with a poem: copies, near-duplicates, and what the text shows by itself."""

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.clients.judge.simulated import poems as ordinary_poems
from tests.core.test_similarity import SIMPLIFIED, TRADITIONAL, pairs
from verse.records import Candidate, Poem
from verse.similarity import comparison_key, normalise, one_script, span_of
from verse_clients.measures import ReferenceSet
from verse_clients.screening import (
    CopyCheck,
    CopyLimits,
    Guard,
    Limits,
    PoemMarker,
    Screen,
    judge_screen,
)

SOURCE = "河水流过我的窗前带走一页没有写完的信和祖母的铜顶针"
OTHER = "".join(chr(0x7000 + 13 * n) for n in range(80))
"""Text that shares nothing with the source."""
RUNS = st.text(alphabet=[chr(0x5000 + n) for n in range(400)], min_size=40, max_size=60)


def check(limits: CopyLimits = CopyLimits()) -> CopyCheck:  # noqa: B008
    known = CopyCheck(limits=limits)
    known.add("《河》", SOURCE)
    known.add("《山》", "".join(chr(0x6000 + 11 * n) for n in range(60)))
    return known


@pytest.mark.parametrize(
    ("length", "is_told", "is_blocking"),
    [(7, False, False), (8, True, False), (12, True, False), (13, True, True), (20, True, True)],
)
def test_a_run_is_told_from_eight_and_blocked_from_thirteen_characters(
    length: int, is_told: bool, is_blocking: bool
) -> None:
    found = check().find(f"{OTHER[:30]}，{SOURCE[:length]}。\n{OTHER[30:60]}")
    assert (found is not None) == is_told
    if found is not None:
        assert (found.other, found.run) == ("《河》", SOURCE[:length])
        assert found.is_blocking == is_blocking


def test_half_a_poem_is_too_much_however_short() -> None:
    found = check().find(SOURCE[:8] + OTHER[:7])
    assert found is not None
    assert found.is_blocking
    assert found.ratio == pytest.approx(8 / 15)


def test_a_poem_stitched_from_short_pieces_of_one_source_is_blocking() -> None:
    stitched = f"{SOURCE[:7]}，\n{SOURCE[9:16]}，\n{SOURCE[18:25]}。"
    found = check().find(stitched)
    assert found is not None
    assert (found.other, found.run, found.is_blocking) == ("《河》", "", True)
    assert found.ratio >= 0.5


def test_line_breaks_and_punctuation_hide_nothing() -> None:
    found = check().find("\n".join(f"{char}，" for char in SOURCE))
    assert found is not None
    assert (found.run, found.ratio) == (SOURCE, 1.0)


def test_the_limits_are_the_callers() -> None:
    poem = OTHER[:40] + SOURCE[:9]
    assert check(CopyLimits(warn=10)).find(poem) is None
    found = check(CopyLimits(block=9)).find(poem)
    assert found is not None
    assert found.is_blocking


def test_a_run_that_blocks_is_found_where_only_longer_ones_are_worth_reporting() -> None:
    found = check(CopyLimits(warn=20, block=13)).find(OTHER[:40] + SOURCE[:13] + OTHER[40:])
    assert found is not None
    assert (found.run, found.is_blocking) == (SOURCE[:13], True)
    assert check(CopyLimits(warn=20, block=13)).find(OTHER[:40] + SOURCE[:12] + OTHER[40:]) is None


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
    assert found.is_blocking
    assert run in found.run
    assert 0 < found.ratio <= 1


@given(RUNS, RUNS)
def test_what_is_told_is_really_in_both(source: str, poem: str) -> None:
    known = CopyCheck()
    known.add("s", source)
    found = known.find(poem)
    if found is not None:
        assert found.run in source
        assert found.run in poem
        assert found.is_blocking or len(found.run) >= 8


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
    assert (found.other, found.is_blocking) == ("《河》", True)
    assert found.run in normalise(framed)
    first, last = span_of(framed, found.run)
    assert normalise(framed[first:last]) == found.run
    assert one_script(found.run) in comparison_key(source)


def test_what_is_measured_with_does_not_leak_in_the_other_script() -> None:
    why = Guard(valid=[Poem(theme="河", text=SIMPLIFIED)]).find(TRADITIONAL)
    assert why is not None
    assert why.reason == "leak"
    measured = ReferenceSet([SIMPLIFIED]).measure([TRADITIONAL])
    assert (measured.copy_rate, measured.similarity) == (1, 1)


def test_a_copy_of_the_second_poem_is_refused_although_the_first_shares_its_beginning() -> None:
    letters = "".join(chr(0x5000 + n) for n in range(36))
    first, second = Poem(theme="A", text=letters[:12]), Poem(theme="B", text=letters[4:18])
    text = letters[:18] + OTHER[:40]
    limits = Limits(CopyLimits(block=14, share=1))
    assert Guard(valid=[second], limits=limits).find(text)
    assert Guard(valid=[first, second], limits=limits).find(text)
    assert Guard(valid=[second, first], limits=limits).find(text)


FEW = st.text(st.sampled_from("abc"), min_size=1, max_size=24)


@given(
    FEW,
    st.lists(FEW, min_size=1, max_size=4),
    FEW,
    st.builds(CopyLimits, warn=st.just(3), block=st.integers(3, 12), share=st.floats(0.3, 1)),
)
@example("abcdefgh" + "x" * 40, ["cdefgh"], "abcde", CopyLimits(warn=2, block=6, share=1))
def test_another_poem_never_hides_a_refusal(
    text: str, known: list[str], another: str, limits: CopyLimits
) -> None:
    def is_refused(*texts: str) -> bool:
        poems = [Poem(theme="题", text=poem) for poem in texts]
        kept = Guard(valid=poems, limits=Limits(limits, 0.9)).find(text)
        learned = Guard(training=poems, limits=Limits(limits, 0.9)).find(text)
        assert (kept is None) == (learned is None)
        return kept is not None

    if is_refused(*known):
        assert is_refused(*known, another)
        assert is_refused(another, *known)


# --- What generate marks -------------------------------------------------------------------------


TEXTS = st.lists(st.text(alphabet="山水月亮风火，\n", max_size=14), max_size=12)


def candidates(texts: list[str]) -> list[Candidate]:
    return [Candidate(theme="河", text=text, sample=number) for number, text in enumerate(texts)]


def marked(texts: list[str], marker: PoemMarker | None = None) -> list[Candidate]:
    marker = marker or PoemMarker()
    return [marker.marked(poem) for poem in candidates(texts)]


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
    assert marked(texts, PoemMarker(limits=Limits(ratio=0.7)))[1].blocked == "duplicate"
    assert marked(texts, PoemMarker(limits=Limits(ratio=0.8)))[1].blocked is None
    assert marked([OTHER[:40], OTHER[:39]], PoemMarker(limits=Limits(ratio=1.0)))[1].blocked is None


def test_an_accepted_poem_is_not_to_be_written_again() -> None:
    accepted = Poem(theme="河", text=OTHER[:40], origin="accepted")
    (poem,) = marked([OTHER[:40]], PoemMarker(accepted=[accepted]))
    assert poem.duplicate_of == accepted.id


def test_a_copy_names_the_poem_and_the_run_and_only_a_long_one_is_blocked() -> None:
    marker = PoemMarker([Poem(theme="河", text=SOURCE)], limits=Limits())
    told, blocked = marked([OTHER[:40] + SOURCE[:9], OTHER[40:80] + SOURCE[:14]], marker)
    assert (told.copied_from, told.copied_run, told.blocked) == ("《河》", SOURCE[:9], None)
    assert (blocked.copied_from, blocked.blocked) == ("《河》", "copy")


def test_an_empty_poem_is_kept_from_the_judge() -> None:
    assert [poem.blocked for poem in marked(["", " \n"])] == ["empty", "empty"]


def test_poems_of_an_earlier_run_are_known() -> None:
    marker = PoemMarker()
    (before,) = candidates([OTHER[:40]])
    marker.remember(before)
    assert marker.marked(Candidate(theme="雨", text=OTHER[:40])).duplicate_of == before.id


@given(TEXTS)
def test_marks_change_nothing_else_and_nothing_is_dropped(texts: list[str]) -> None:
    plain = {"duplicate_of": None, "copied_from": None, "copied_run": "", "blocked": None}
    found = [msgspec.structs.replace(poem, **plain) for poem in marked(texts)]
    assert found == candidates(texts)


@given(st.lists(st.tuples(st.sampled_from([OTHER[:20], OTHER[20:40], SOURCE]), st.booleans())))
def test_of_whole_poems_alike_the_first_stays_whatever_came_before(
    drawn: list[tuple[str, bool]],
) -> None:
    marker = PoemMarker([Poem(theme="河", text=SOURCE)])
    poems = [
        marker.marked(
            Candidate(theme="河", text=text, sample=n, finish_reason="length" if cut else "stop")
        )
        for n, (text, cut) in enumerate(drawn)
    ]
    whole = [poem for poem in poems if poem.finish_reason == "stop" and poem.text != SOURCE]
    stays = [poem for poem in whole if poem.blocked is None]
    first = {poem.text: poem for poem in reversed(whole)}
    assert {poem.text: poem for poem in stays} == first
    assert len(stays) == len(first)
    again = PoemMarker([Poem(theme="河", text=SOURCE)])
    again.remember_all(poems[:-1])
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


# --- What no judge needs to see ------------------------------------------------------------------


GOOD = "旧街的灯\n一盏一盏认出自己\n河不回头"


def reason(text: str, theme: str = "灯", screen: Screen | None = None, **fields: object) -> str:
    poem = Candidate(theme=theme, text=text, **fields)  # pyright: ignore
    found = (screen or judge_screen()).find(poem)
    return found.reason if found else ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (GOOD, ""),
        ("", "empty"),
        ("。。。！\n", "empty"),
        ("灯亮了", "short"),
        ("河不回头\n河不回头\n河不回头", "repeated"),
        ("在水里" + "月亮" * 9, "repeated"),
        (
            "我爱你\n旧街的灯\n我爱你\n一盏一盏认出自己\n我爱你\n河水不肯回头看我\n门开着",
            "",
        ),  # a refrain
        ("<|im_start|>user\n" + GOOD, "prompt"),
        (GOOD + "\n</think>", "thought"),
        (GOOD + "\n<think>再想想", "thought"),
        ("作为一个AI，我写不出诗，但可以试一试", "prompt"),
        (GOOD + "\nassistant\n第二首", "prompt"),
        ("The street lamps are lit\n一盏一盏认出自己", "latin"),
        (GOOD + "\nKTV 亮着", ""),
    ],
)
def test_the_first_reason_is_told(text: str, why: str) -> None:
    assert reason(text) == why


def test_a_poem_cut_off_by_the_token_limit_is_left_out() -> None:
    assert reason(GOOD, finish_reason="length") == "truncated"


def test_words_of_the_poems_own_prompt_in_it_are_a_leak() -> None:
    variant = "请用朴素的口语写{theme}"
    assert reason("请用朴素的口语\n" + GOOD, variant=variant) == "prompt"
    assert reason(GOOD, variant=variant) == ""


def test_an_english_theme_may_have_an_english_poem() -> None:
    assert reason("The street lamps are lit\none by one", theme="Lamps") == ""


def test_of_poems_alike_the_first_stays() -> None:
    screen = judge_screen()
    assert reason(GOOD, screen=screen) == ""
    assert reason(GOOD.replace("\n", "，\n"), screen=screen, sample=1) == "near"


def test_a_near_duplicate_that_is_left_out_takes_no_other_with_it() -> None:
    first, second, third = OTHER[:40], OTHER[6:40], OTHER[12:40]
    screen = judge_screen()
    assert reason(first, screen=screen) == ""
    assert reason(second, screen=screen, sample=1) == "near"
    assert reason(third, screen=screen, sample=2) == "near"
    shorter = OTHER[15:40]  # like the second, not like the first
    assert reason(shorter, screen=screen, sample=3) == ""


def test_a_poem_left_out_takes_no_other_with_it() -> None:
    screen = judge_screen()
    assert reason(GOOD, screen=screen, finish_reason="length") == "truncated"
    assert reason(GOOD, screen=screen, sample=1) == ""


def test_copies_of_the_poets_own_poems_are_left_out_with_their_source() -> None:
    screen = judge_screen([Poem(theme="旧街", text=GOOD)])
    found = screen.find(Candidate(theme="灯", text=GOOD + "\n门开着"))
    assert found is not None
    assert found.reason == "copy"
    assert found.other == "《旧街》"
    assert found.run.startswith("旧街的灯")


def test_what_verse_generate_blocked_stays_blocked() -> None:
    assert reason(GOOD, blocked="copy", copied_from="《旧街》") == "copy"
    assert reason(GOOD, blocked="duplicate", duplicate_of="x") == "near"


def test_ordinary_poems_pass() -> None:
    screen = judge_screen()
    assert [screen.find(poem) for poem in ordinary_poems(40)] == [None] * 40
