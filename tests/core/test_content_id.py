import pytest
from hypothesis import given
from hypothesis import strategies as st

from verse.records import content_id


def test_an_id_is_the_same_on_every_machine() -> None:
    assert content_id("河", "河水流过\n我的窗前") == "10cde4d234d64d65"


@pytest.mark.parametrize(
    "text",
    ["雨\r\n夜", "雨\n夜\n", "\n\n雨\n夜", "雨 \n夜　", "雨\r夜"],
    ids=["windows line ends", "end of file", "blank lines before", "trailing spaces", "old mac"],
)
def test_what_a_reader_cannot_see_makes_no_difference(text: str) -> None:
    assert content_id(text) == content_id("雨\n夜")


@pytest.mark.parametrize("text", ["雨夜", "雨\n\n夜", " 雨\n夜", "雨\n夜。"])
def test_what_a_reader_sees_makes_a_difference(text: str) -> None:
    assert content_id(text) != content_id("雨\n夜")


def test_composed_and_decomposed_letters_are_one() -> None:
    assert content_id("café") == content_id("cafe\N{COMBINING ACUTE ACCENT}")


@given(st.text(), st.text(), st.text())
def test_parts_never_run_together(first: str, second: str, third: str) -> None:
    assert content_id(first, second + third) != content_id(first, second, third)


def test_no_part_is_not_an_empty_part() -> None:
    assert content_id(None) != content_id("")
