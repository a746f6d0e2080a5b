"""The `model` field of a request, taken apart."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verse.model_spelling import (
    MAX_PARTS,
    AdapterPart,
    ModelSpellingError,
    is_adapter_name,
    parse_model,
)

NAME_LETTERS = st.characters(
    exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp"), exclude_characters="@:+/\\."
)
names = st.text(NAME_LETTERS, min_size=1, max_size=20)
checkpoints = st.one_of(st.none(), st.sampled_from(["best", "last"]), st.integers(0, 999_999_999))
strengths = st.decimals(-100, 100, places=3).map(float)


@pytest.mark.parametrize(
    ("spelling", "part"),
    [
        ("xuzhimo", AdapterPart("xuzhimo")),
        ("徐志摩", AdapterPart("徐志摩")),
        ("v1.2-final_3", AdapterPart("v1.2-final_3")),
        ("xuzhimo@200", AdapterPart("xuzhimo", 200)),
        ("xuzhimo@0000200", AdapterPart("xuzhimo", 200)),
        ("xuzhimo@best", AdapterPart("xuzhimo", "best")),
        ("xuzhimo@last", AdapterPart("xuzhimo", "last")),
        ("xuzhimo:0.6", AdapterPart("xuzhimo", None, 0.6)),
        ("xuzhimo:0", AdapterPart("xuzhimo", None, 0.0)),
        ("xuzhimo:-1", AdapterPart("xuzhimo", None, -1.0)),
        ("xuzhimo@200:1.5", AdapterPart("xuzhimo", 200, 1.5)),
    ],
)
def test_one_adapter_is_one_part(spelling: str, part: AdapterPart) -> None:
    assert parse_model(spelling) == (part,)


def test_a_blend_keeps_its_parts_in_order() -> None:
    assert parse_model("xuzhimo:0.7+hushi@last:0.3+libai") == (
        AdapterPart("xuzhimo", None, 0.7),
        AdapterPart("hushi", "last", 0.3),
        AdapterPart("libai"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "+",
        "a+",
        "+a",
        "a++b",
        "@200",
        ":0.5",
        "a@",
        "a@newest",
        "a@-1",
        "a@1.5",
        "a@1234567890",
        "a@200@300",
        "a:",
        "a:x",
        "a:.5",
        "a:1.",
        "a:1e3",
        "a:nan",
        "a:٣",
        "a@٣",
        "a:inf",
        "a:+1",
        "a:0.5:0.5",
        "a:0.5@200",
        "a b",
        " a",
        "a\n",
        "a\0b",
        "a\x1b[31m",
        "a\ud800",
        ".",
        "..",
        ".hidden",
        "../a",
        "a/b",
        "/etc/passwd",
        "a\\b",
        "C:\\adapters",
        "a" * 256,
        "徐" * 100_000,
    ],
)
def test_what_is_no_spelling_is_refused(text: str) -> None:
    with pytest.raises(ModelSpellingError):
        parse_model(text)


def test_a_strength_beyond_reason_is_refused() -> None:
    with pytest.raises(ModelSpellingError, match="at most 100"):
        parse_model("a:" + "9" * 400)
    with pytest.raises(ModelSpellingError, match="at most 100"):
        parse_model("a:-100.5")
    assert parse_model("a:-100")[0].strength == -100


def test_a_blend_has_a_limit() -> None:
    assert len(parse_model("+".join(["a"] * MAX_PARTS))) == MAX_PARTS
    with pytest.raises(ModelSpellingError, match=str(MAX_PARTS)):
        parse_model("+".join(["a"] * (MAX_PARTS + 1)))


def test_the_spelling_of_a_part_leaves_its_strength_out() -> None:
    parts = parse_model("a:0.5+a@200:0.5+a@best")
    assert [part.spelling for part in parts] == ["a", "a@200", "a@best"]


@given(names, checkpoints, strengths)
def test_what_is_spelled_out_is_read_back(
    name: str, checkpoint: int | None, strength: float
) -> None:
    part = AdapterPart(name, checkpoint, strength)
    assert parse_model(f"{part.spelling}:{strength:.3f}") == (part,)


@given(st.lists(names, min_size=1, max_size=MAX_PARTS))
def test_any_names_blend(blended: list[str]) -> None:
    assert [part.name for part in parse_model("+".join(blended))] == blended


@given(st.text())
def test_any_text_is_parts_or_a_spelling_error(text: str) -> None:
    try:
        parts = parse_model(text)
    except ModelSpellingError:
        return
    assert parts
    for part in parts:
        assert is_adapter_name(part.name)
        assert math.isfinite(part.strength)


@given(st.text(max_size=10))
def test_a_folder_can_be_asked_for_exactly_if_its_name_is_a_spelling_of_itself(name: str) -> None:
    try:
        spells_itself = parse_model(name) == (AdapterPart(name),)
    except ModelSpellingError:
        spells_itself = False
    assert is_adapter_name(name) == spells_itself
