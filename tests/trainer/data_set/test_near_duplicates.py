from hypothesis import given
from hypothesis import strategies as st

from tests.core.test_sample_data import POEMS
from tests.trainer.data_set.poem_pile import draft_of, make_text
from verse_trainer.data_set.near_duplicates import Alike, alike_pairs, groups

RIVER = "灯在水上走了很久，没有回头，河记得每一盏的名字。"


def test_punctuation_and_spaces_make_no_other_poem() -> None:
    assert list(alike_pairs([RIVER, "灯在水上走了很久\n  没有回头\n河记得每一盏的名字"])) == [
        Alike(0, 1, True)
    ]


def test_a_draft_and_a_stanza_are_nearly_the_poem() -> None:
    draft = RIVER.replace("很久", "一夜").replace("名字", "样子")
    stanza = RIVER[:12]
    assert list(alike_pairs([RIVER, draft, stanza])) == [
        Alike(0, 1, False),
        Alike(0, 2, False),
        Alike(1, 2, False),
    ]


def test_a_few_words_in_common_are_not() -> None:
    assert not list(
        alike_pairs([RIVER, "没有回头", "水上的风一直在吹，吹过桥，吹过没有人的码头。"])
    )


def test_the_sample_poems_are_all_different() -> None:
    assert not list(alike_pairs([poem.text for poem in POEMS]))


def test_blank_texts_are_like_nothing() -> None:
    assert groups(["", "…", " \n"]) == [[0], [1], [2]]


def test_groups_reach_through_others() -> None:
    parts = [make_text(number) for number in range(3)]
    chain = [parts[0] + parts[1], parts[1] + parts[2], parts[2] + make_text(3)]
    assert not any(pair[:2] == (0, 2) for pair in alike_pairs(chain))
    assert groups([*chain, make_text(9)]) == [[0, 1, 2], [3]]


@given(st.permutations(range(8)))
def test_groups_are_the_same_in_any_order(order: list[int]) -> None:
    texts = [*(make_text(n) for n in range(5)), *(draft_of(make_text(n)) for n in range(3))]
    found = groups([texts[place] for place in order])
    together = {frozenset(order[place] for place in group) for group in found}
    assert together == {frozenset(s) for s in ({0, 5}, {1, 6}, {2, 7}, {3}, {4})}
