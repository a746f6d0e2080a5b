"""How varied a collection of poems is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verse_clients.measures import Diversity, diversity, equal_samples, first_line

COLLECTIONS = st.lists(st.text(alphabet="山水月亮风火 ，\n", max_size=40), max_size=12)


def test_shares_are_counted_in_characters_within_poems() -> None:
    measured = diversity(["山水山水", "山水"])
    assert measured.distinct_1 == pytest.approx(2 / 6)
    assert measured.distinct_2 == pytest.approx(2 / 4)
    assert measured.distinct_3 == 1.0
    assert measured.distinct_4 == 1.0


def test_punctuation_and_line_breaks_count_for_nothing() -> None:
    assert diversity(["山水，\n风火。"]).distinct_4 == diversity(["山水风火"]).distinct_4


def test_a_refrain_is_no_repetition_but_a_line_of_two_poems_is() -> None:
    line = "月亮照着井台上的霜"
    assert diversity([f"{line}\n{line}"]).self_repetition == 0
    measured = diversity([line, line, "风把门吹开又轻轻关上"])
    assert measured.self_repetition == pytest.approx(8 / 13)


def test_poems_that_say_the_same_compress_further() -> None:
    varied = ["".join(chr(0x4E00 + 97 * n + m) for m in range(30)) for n in range(20)]
    assert diversity(varied[:1] * 20).compression_ratio > 3 * diversity(varied).compression_ratio


def test_the_commonest_first_line_is_told_as_it_is_written() -> None:
    poems = ["\n  在夜的深处，\n风", "在夜的深处。\n雨", "别的开头"]
    measured = diversity(poems)
    assert measured.commonest_first_line == "在夜的深处，"
    assert measured.commonest_first_line_share == pytest.approx(2 / 3)


def test_nothing_is_measured_of_nothing() -> None:
    measured = diversity(["", "，\n"])
    assert measured == Diversity(
        num_poems=2, distinct_1=0, distinct_2=0, distinct_3=0, distinct_4=0, self_repetition=0,
        compression_ratio=0.0, commonest_first_line="", commonest_first_line_share=0,
    )  # fmt: skip
    assert diversity([]).num_poems == 0


@given(COLLECTIONS)
def test_shares_are_shares_and_the_order_of_poems_is_nothing(poems: list[str]) -> None:
    measured, backwards = diversity(poems), diversity(poems[::-1])
    for name in ("distinct_1", "distinct_2", "distinct_3", "distinct_4", "self_repetition"):
        assert 0 <= getattr(measured, name) <= 1
        assert getattr(measured, name) == getattr(backwards, name)
    assert 0 <= measured.commonest_first_line_share <= 1


@given(COLLECTIONS.filter(bool))
def test_saying_it_all_twice_is_never_more_varied(poems: list[str]) -> None:
    once, twice = diversity(poems), diversity(poems * 2)
    assert twice.distinct_2 <= once.distinct_2
    assert twice.self_repetition >= once.self_repetition


def test_samples_are_equal_in_size_and_the_same_each_time() -> None:
    groups = {"a": [f"a{n}" for n in range(9)], "b": ["b0", "b1", "b2"]}
    drawn = equal_samples(groups)
    assert {name: len(poems) for name, poems in drawn.items()} == {"a": 3, "b": 3}
    assert set(drawn["a"]) <= set(groups["a"])
    assert drawn == equal_samples(groups)
    assert drawn["a"] == equal_samples({**groups, "c": ["c"] * 3})["a"]


def test_the_first_line_is_the_first_that_says_something() -> None:
    assert first_line("\n……\n  河 \n水") == "河"
    assert first_line("，") == ""
