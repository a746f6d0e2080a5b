"""What is learned next: never a copy, never a leak, the poet's poems all there, shares kept."""

import random
from collections import Counter
from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz import fuzz

from tests.clients.refine.conftest import decision, own_text
from verse.poem_split import PoemSplit
from verse.records import Decision, PairDecision, Poem
from verse.similarity import normalise
from verse_clients.measures import first_line
from verse_clients.refine.commands import conversion_summary
from verse_clients.refine.convert import (
    ConversionResult,
    ShareLimits,
    by_claim,
    convert,
    most_synthetic,
)
from verse_clients.screening import Limits

ORIGINALS = [Poem(theme=f"题{number}", text=own_text(number)) for number in range(8)]
SPLIT = PoemSplit(valid=tuple(poem.id for poem in ORIGINALS[6:]), share=0.25, seed=0)
SHARES = ShareLimits(max_synthetic=0.5, max_opening=0.2)


def converted(
    entries: Sequence[Decision | PairDecision],
    poems: Sequence[Poem] = ORIGINALS,
    shares: ShareLimits = SHARES,
) -> ConversionResult:
    return convert(entries, poems, SPLIT, shares, Limits())


def taken_over(text: str, source: str) -> bool:
    """The rule again, written as plainly as can be."""
    one, other = normalise(text), normalise(source)
    longest = max(
        (
            end - start
            for start in range(len(one))
            for end in range(start + 1, len(one) + 1)
            if one[start:end] in other
        ),
        default=0,
    )
    is_copy = longest >= 13 or (longest >= 8 and 2 * longest >= len(one))
    return is_copy or fuzz.ratio(one, other) >= 80


@st.composite
def journals(draw: st.DrawFn) -> list[Decision]:
    """Poems of their own, mixed with pieces of the poet's, cut anywhere, repeated and edited."""
    rng = random.Random(draw(st.integers(0, 2**20)))
    fresh = [own_text(100 + number) for number in range(10)]
    fresh += [f"门开着\n{own_text(120 + number)}" for number in range(6)]
    decisions: list[Decision] = []
    for number in range(draw(st.integers(0, 14))):
        text = rng.choice(fresh)
        if rng.random() < 0.5:
            source = rng.choice(ORIGINALS).text
            start, length = rng.randrange(len(source)), rng.randrange(3, len(source))
            place = rng.randrange(len(text))
            text = text[:place] + source[start : start + length] + text[place:]
        final = rng.choice([None, text.replace("\n", "，\n"), rng.choice(fresh)])
        action = "edit" if final else rng.choice(["accept", "accept", "reject", "skip"])
        decisions.append(
            decision(f"题{rng.randrange(4)}", text, action, final=final, sample=number)
        )
    return decisions


@given(journals(), st.floats(0, 0.9), st.floats(0.01, 1))
def test_whatever_was_accepted_the_next_set_keeps_its_promises(
    entries: list[Decision], max_synthetic: float, max_opening: float
) -> None:
    shares = ShareLimits(max_synthetic=max_synthetic, max_opening=max_opening)
    result = converted(entries, shares=shares)
    assert list(result.originals) == ORIGINALS
    assert {*result.training, *result.valid} == {*ORIGINALS}
    learned = [poem.text for poem in result.additional]
    learned += [text for pair in result.pairs for text in (pair.chosen, pair.rejected)]
    for text in learned:
        assert not any(taken_over(text, poem.text) for poem in ORIGINALS)
    num_rows = len(result.training) + len(result.additional)
    assert len(result.additional) <= max_synthetic * num_rows + 1e-6
    openings = Counter(normalise(first_line(poem.text)) for poem in result.additional)
    assert all(count <= max(1, max_opening * num_rows + 1e-6) for count in openings.values())


@given(journals())
def test_every_accepted_poem_is_taken_or_refused_with_a_reason(entries: list[Decision]) -> None:
    result = converted(entries)
    accepted = {
        Poem(theme=e.candidate.theme, text=e.text or e.candidate.text).id
        for e in entries
        if e.action in ("accept", "edit")
    }
    taken = {poem.id for poem in result.additional}
    refused = {one.poem.id for one in result.refused}
    assert taken | refused == accepted
    assert not taken & refused


@given(journals())
def test_the_same_decisions_give_the_same_result(entries: list[Decision]) -> None:
    one, other = converted(entries), converted(list(entries))
    assert msgspec.json.encode(one) == msgspec.json.encode(other)
    assert conversion_summary(one, SHARES) == conversion_summary(other, SHARES)


@given(journals())
def test_no_two_poems_that_are_taken_are_nearly_the_same(entries: list[Decision]) -> None:
    texts = [normalise(poem.text) for poem in converted(entries).additional]
    for place, text in enumerate(texts):
        assert all(fuzz.ratio(text, other) < 80 for other in texts[:place])


def test_an_edited_poem_is_learned_in_the_poets_version_with_its_provenance() -> None:
    entry = decision("河", own_text(50), "edit", final=own_text(50)[:-4] + "改过了的")
    [poem] = converted([entry]).additional
    assert (poem.text, poem.origin) == (entry.text, "edited")
    assert poem.source == entry.candidate.id


def test_of_two_versions_nearly_the_same_the_edited_one_stays() -> None:
    text = own_text(50)
    accepted = decision("河", text)
    edited = decision("河", own_text(51), "edit", final=text.replace("\n", "，\n") + "了")
    result = converted([accepted, edited])
    assert [poem.origin for poem in result.additional] == ["edited"]
    assert [one.why.reason for one in result.refused] == ["near"]


def test_a_poem_near_the_valid_set_is_a_leak_and_one_near_the_training_set_a_copy() -> None:
    leak = decision("题", ORIGINALS[7].text[:-1] + "变")
    copy = decision("题", ORIGINALS[0].text[:-1] + "变")
    assert [one.why.reason for one in converted([leak, copy]).refused] == ["leak", "copy"]


def test_a_poem_cut_out_of_a_long_one_is_found_though_the_two_are_not_alike() -> None:
    long = Poem(theme="长", text=own_text(30, 200))
    entry = decision("短", long.text[40:52])
    result = convert([entry], [*ORIGINALS, long], SPLIT, SHARES, Limits())
    assert [one.why.reason for one in result.refused] == ["copy"]


def test_a_rejected_copy_is_in_no_pair_since_that_would_unlearn_the_poets_poem() -> None:
    entries = [
        decision("题0", own_text(60)),
        decision("题0", ORIGINALS[0].text, "reject"),
        decision("题0", own_text(61), "reject"),
    ]
    result = converted(entries)
    assert [pair.rejected for pair in result.pairs] == [own_text(61)]
    assert result.refused_pairs == {"copy": 1}


def test_poems_of_models_from_earlier_rounds_count_towards_the_share() -> None:
    before = [
        Poem(theme=f"旧{n}", text=own_text(70 + n), origin="accepted", source=str(n))
        for n in range(5)
    ]
    entries = [decision(f"新{n}", own_text(80 + n)) for n in range(5)]
    result = converted(entries, [*ORIGINALS, *before])
    assert len(result.additional) == 6
    assert list(result.originals) == ORIGINALS
    assert {one.why.reason for one in result.refused} == {"share"}


def test_no_opening_line_gets_more_than_its_share_and_the_poets_own_count_first() -> None:
    opened = [Poem(theme="门", text=f"门开着，\n{own_text(20)}")]
    entries = [decision(f"题{n}", f"门开着\n{own_text(40 + n)}") for n in range(5)]
    entries += [decision(f"别{n}", own_text(60 + n)) for n in range(4)]
    result = converted(entries, [*opened, *ORIGINALS], ShareLimits(max_opening=0.2))
    num_rows = len(result.training) + len(result.additional)
    openings = [first_line(p.text) for p in (*result.training, *result.additional)]
    assert sum(line.startswith("门开着") for line in openings) == num_rows // 5 == 2
    assert Counter(one.why.reason for one in result.refused)["opening"] == 4


def test_the_cap_is_exact() -> None:
    assert most_synthetic(100, 0.5) == 100
    assert most_synthetic(100, 0.1) == 11
    assert most_synthetic(9, 0.1) == 1
    assert most_synthetic(0, 0.9) == 0


def test_every_theme_is_served_before_any_is_served_twice() -> None:
    poems = [
        Poem(theme="雨", text="甲", source="a", origin="accepted"),
        Poem(theme="雨", text="乙", source="b", origin="edited"),
        Poem(theme="雨", text="丙", source="c", origin="accepted"),
        Poem(theme="河", text="丁", source="d", origin="accepted"),
    ]
    ranked = by_claim(poems, {"c": 5})
    assert [poem.source for poem in ranked] == ["b", "d", "c", "a"]


def test_the_report_says_in_plain_words_what_was_refused_and_why() -> None:
    leak = decision("题", ORIGINALS[7].text)
    text = conversion_summary(converted([leak, decision("河", own_text(90))]), SHARES)
    assert "6 poems of the poet to learn from, 2 kept to measure with" in text
    assert "1 poem that models wrote: 1 as they were, 0 in the poet's version." in text
    assert "## Accepted but left out: too close to a poem of the valid set (1)" in text
    assert "100% like 《题7》" in text
