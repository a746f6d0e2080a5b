"""From tokens to text: no half characters, and nothing of a stop string."""

import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_tokenizer

from verse_server.engine.text import AnswerText, Detokenizer, StopMatcher

VERSE_TINY = Path(__file__).parents[3] / "models" / "verse-tiny"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
POEM = "轻轻的我走了，\n正如我轻轻的来；\n我轻轻的招手，\n作别西天的云彩。"


@pytest.fixture(scope="module")
def tokenizer() -> TokenizerWrapper:
    return load_tokenizer(VERSE_TINY)


def run_through(matcher: StopMatcher, pieces: Sequence[str]) -> tuple[list[str], bool]:
    """What is sent for each piece, the rest last; and whether a stop string was found."""
    sent: list[str] = []
    for piece in pieces:
        text, stopped = matcher.push(piece)
        sent.append(text)
        if stopped:
            return sent, True
    return [*sent, matcher.flush()], False


def cut(text: str, places: set[int]) -> list[str]:
    """At these places, as far as the text reaches."""
    edges = [0, *sorted(place for place in places if place < len(text)), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


def first_whole(text: str, stops: Sequence[str]) -> int | None:
    """Slow and obvious: read on letter by letter until the text ends in a stop string."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if stop and text[:end].endswith(stop)]
        if starts:
            return min(starts)
    return None


# Few letters, so that stop strings overlap themselves, each other and the ends of the pieces.
letters = st.text("ab河", max_size=14)
stop_lists = st.lists(st.text("ab河", max_size=4), max_size=3)
places = st.sets(st.integers(0, 14))


@settings(deadline=None)
@given(letters, stop_lists, places)
@example("abc", ["abc", "b"], {2})
@example("aab", ["ab"], {1, 2})
@example("aaab", ["aab"], {1, 2, 3})
def test_however_the_text_is_cut_the_answer_is_what_stands_before_the_stop(
    text: str, stops: list[str], places: set[int]
) -> None:
    sent, stopped = run_through(StopMatcher(stops), cut(text, places))
    start = first_whole(text, stops)
    assert stopped == (start is not None)
    assert "".join(sent) == text[:start]


@settings(deadline=None)
@given(letters, stop_lists, places)
def test_no_part_of_a_stop_string_is_ever_sent(
    text: str, stops: list[str], places: set[int]
) -> None:
    """Whatever is sent stays sent, so at every moment the rest of the text may still be a stop."""
    matcher, so_far, sent = StopMatcher(stops), "", ""
    for piece in cut(text, places):
        delta, stopped = matcher.push(piece)
        so_far, sent = so_far + piece, sent + delta
        assert not any(stop and stop in sent for stop in stops)
        if stopped:
            return
        held = so_far[len(sent) :]
        assert so_far.startswith(sent)
        assert not held or any(stop.startswith(held) for stop in stops)
        ends = [so_far[start:] for start in range(len(sent))]
        assert not any(stop.startswith(end) and stop != end for stop in stops for end in ends)


def test_text_without_stops_is_passed_on_at_once() -> None:
    assert run_through(StopMatcher([]), ["轻轻的", "我", "走了"]) == (
        ["轻轻的", "我", "走了", ""],
        False,
    )


def test_what_may_become_a_stop_string_waits_until_it_is_clear() -> None:
    matcher = StopMatcher(["\n\n"])
    assert matcher.push("我走了\n") == ("我走了", False)
    assert matcher.push("正如") == ("\n正如", False)
    assert matcher.push("\n") == ("", False)
    assert matcher.push("\n题外话") == ("", True)


def test_the_earliest_stop_wins_whatever_the_order_they_are_given_in() -> None:
    for stops in (["西天", "招手"], ["招手", "西天"]):
        assert StopMatcher(stops).push(POEM) == (POEM[: POEM.index("招手")], True)


def test_of_two_stops_that_end_together_the_longer_one_is_cut_off() -> None:
    assert StopMatcher(["b", "ab"]).push("xab") == ("x", True)


def test_the_text_after_a_stop_is_dropped() -> None:
    assert StopMatcher(["。"]).push("云彩。我走了") == ("云彩", True)


def test_an_empty_stop_string_stops_nothing() -> None:
    assert run_through(StopMatcher([""]), ["我", "走了"]) == (["我", "走了", ""], False)


def test_what_was_held_back_is_given_out_once() -> None:
    matcher = StopMatcher(["abc"])
    matcher.push("ab")
    assert matcher.flush() == "ab"
    assert matcher.flush() == ""


class Pieces:
    """A detokenizer whose token n becomes the n-th piece; the last is held back to the end."""

    def __init__(self, *pieces: str, held: str = "") -> None:
        self._pieces = pieces
        self._held = held
        self._segment = ""

    def add_token(self, token: int) -> None:
        self._segment = self._pieces[token]

    def finalize(self) -> None:
        self._segment = self._held

    @property
    def last_segment(self) -> str:
        return self._segment


def answer_of(text: AnswerText, tokens: Sequence[int]) -> list[str]:
    """The deltas of an answer that ends after these tokens, or at a stop string."""
    deltas: list[str] = []
    for token in tokens:
        delta, stopped = text.push(token)
        deltas.append(delta)
        if stopped:
            return deltas
    return [*deltas, text.finish()[0]]


def test_a_stop_string_is_found_in_what_the_detokenizer_lets_go_of_at_the_end() -> None:
    text = AnswerText(Pieces("轻轻的", held="我走了。"), ["走"])
    assert answer_of(text, [0]) == ["轻轻的", "我"]


def test_what_the_matcher_holds_is_sent_when_the_answer_ends() -> None:
    text = AnswerText(Pieces("轻轻", "的\n", held=" "), ["\n\n"])
    assert answer_of(text, [0, 1]) == ["轻轻", "的", "\n "]


def test_the_answer_prefix_is_taken_off_once() -> None:
    text = AnswerText(Pieces("", " 轻", " 的", held=" "), [], prefix=" ")
    assert answer_of(text, [0, 1, 2]) == ["", "轻", " 的", " "]


def test_an_answer_without_the_prefix_is_left_alone() -> None:
    text = AnswerText(Pieces("轻", " 的"), [], prefix=" ")
    assert answer_of(text, [0, 1]) == ["轻", " 的", ""]


def test_a_prefix_that_comes_only_at_the_end_is_taken_off_there() -> None:
    assert answer_of(AnswerText(Pieces("", held=" 轻"), [], prefix=" "), [0]) == ["", "轻"]


def test_the_prefix_is_taken_off_before_stop_strings_are_looked_for() -> None:
    text = AnswerText(Pieces(" ", "轻", " 走"), [" "], prefix=" ")
    assert answer_of(text, [0, 1, 2]) == ["", "轻", ""]


def test_a_character_cut_by_the_end_is_dropped() -> None:
    text = AnswerText(Pieces("轻", held=REPLACEMENT * 2), [])
    assert answer_of(text, [0]) == ["轻", ""]


def test_bytes_that_are_no_character_are_dropped_wherever_they_come() -> None:
    text = AnswerText(Pieces("轻", f"{REPLACEMENT}轻", held="的"), ["轻轻的"])
    assert answer_of(text, [0, 1]) == ["", "", ""]


# With verse-tiny's own tokenizer and the detokenizer that mlx-lm picks for it.


def encode(tokenizer: TokenizerWrapper, text: str) -> list[int]:
    return cast(Any, tokenizer).encode(text, add_special_tokens=False)


def decode(tokenizer: TokenizerWrapper, tokens: Sequence[int]) -> str:
    return cast(Any, tokenizer).decode(list(tokens))


def answer(tokenizer: TokenizerWrapper, stops: Sequence[str] = (), prefix: str = "") -> AnswerText:
    return AnswerText(cast(Detokenizer, tokenizer.detokenizer), stops, prefix)


# In NFC, as the tokenizer writes all text; without the byte 0, which mlx-lm takes for a letter; and
# without a leading space, which it drops.
some_text = st.text(
    st.one_of(
        st.sampled_from("轻的我走了，。\n龘𠮷🌊👩\u200d👧é한ㄅ A1"),
        st.characters(codec="utf-8", exclude_characters=f"\0{REPLACEMENT}"),
    ),
    max_size=20,
)
readable = some_text.map(lambda text: unicodedata.normalize("NFC", text).lstrip(" "))


@settings(deadline=None)
@given(text=readable)
@example(text=POEM)
@example(text="龘𠮷🌊")
@example(text="👨\u200d👩\u200d👧\u200d👦🏳️\u200d🌈")
@example(text="a b  c   ")
def test_joined_deltas_are_the_text_and_never_hold_half_a_character(
    tokenizer: TokenizerWrapper, text: str
) -> None:
    tokens = encode(tokenizer, text)
    deltas = answer_of(answer(tokenizer), tokens)
    assert "".join(deltas) == decode(tokenizer, tokens) == text
    assert not any(REPLACEMENT in delta for delta in deltas)


@settings(deadline=None)
@given(text=readable, end=st.integers(0, 40))
@example(text="🌊", end=2)
@example(text="龘", end=1)
def test_an_answer_that_ends_inside_a_character_ends_before_it(
    tokenizer: TokenizerWrapper, text: str, end: int
) -> None:
    tokens = encode(tokenizer, text)[:end]
    joined = "".join(answer_of(answer(tokenizer), tokens))
    assert REPLACEMENT not in joined
    assert joined == decode(tokenizer, tokens).replace(REPLACEMENT, "")
    assert text.startswith(joined)


real_stops = st.lists(st.sampled_from(["\n", "的我", "🌊", "。\n", " ", "龘𠮷"]), max_size=3)


@settings(deadline=None)
@given(text=readable, stops=real_stops)
@example(text=POEM, stops=["；\n我"])
@example(text="走🌊了", stops=["🌊"])
def test_stop_strings_are_found_across_tokens_of_the_real_tokenizer(
    tokenizer: TokenizerWrapper, text: str, stops: list[str]
) -> None:
    joined = "".join(answer_of(answer(tokenizer, stops), encode(tokenizer, text)))
    assert joined == text[: first_whole(text, stops)]


@settings(deadline=None)
@given(st.data())
def test_whatever_tokens_a_wild_model_draws_become_text(
    tokenizer: TokenizerWrapper, data: st.DataObject
) -> None:
    tokens = data.draw(st.lists(st.integers(0, 8191), max_size=30))
    joined = "".join(answer_of(answer(tokenizer), tokens))
    whole = decode(tokenizer, tokens).replace(REPLACEMENT, "").replace("\0", "Ā")
    assert joined in (whole, whole.removeprefix(" "))


def test_every_answer_starts_afresh(tokenizer: TokenizerWrapper) -> None:
    first, second = answer(tokenizer), answer(tokenizer)
    wave, poem = encode(tokenizer, "🌊"), encode(tokenizer, "轻轻")
    first.push(wave[0])
    assert answer_of(second, poem) == ["轻", "轻", ""]
    assert answer_of(first, wave[1:])[-2:] == ["🌊", ""]


def test_an_answer_of_the_seed_format_loses_its_leading_space(tokenizer: TokenizerWrapper) -> None:
    tokens = encode(tokenizer, " 轻轻的")
    assert "".join(answer_of(answer(tokenizer, prefix=" "), tokens)) == "轻轻的"
