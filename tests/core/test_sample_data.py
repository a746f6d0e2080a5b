"""The sample poems, themes and prompt variants are what data/README.md says they are."""

from pathlib import Path

import msgspec

from tests.core.tokenizer import HfTokenizer
from verse import jsonl
from verse.records import Poem

DATA = Path(__file__).parents[2] / "data"
POEMS = jsonl.read(DATA / "poems.jsonl", msgspec.json.Decoder(Poem))
THEMES = (DATA / "themes.txt").read_text("utf-8").splitlines()


def runs(text: str, length: int) -> set[str]:
    characters = [c for c in text if c.isalpha()]
    return {"".join(characters[i : i + length]) for i in range(len(characters) - length + 1)}


def test_each_poem_has_a_theme_and_an_opening_of_its_own() -> None:
    assert len(POEMS) == 124
    assert len({poem.theme for poem in POEMS}) == 124
    assert len({poem.text.splitlines()[0] for poem in POEMS}) == 124


def test_poems_have_3_to_16_lines_and_stanzas_parted_by_one_blank_line() -> None:
    for poem in POEMS:
        lines = [line for line in poem.text.split("\n") if line]
        assert 3 <= len(lines) <= 16, poem.theme
        assert "\n\n\n" not in poem.text
        assert poem.text == poem.text.strip()


def test_no_two_poems_share_more_than_six_characters_in_a_row() -> None:
    seen: set[str] = set()
    for poem in POEMS:
        own = runs(poem.text, 7)
        assert not own & seen, poem.theme
        seen |= own


def test_every_character_is_one_token_of_the_embedded_base(tokenizer: HfTokenizer) -> None:
    characters = set("".join(poem.theme + poem.text for poem in POEMS) + "".join(THEMES))
    for character in characters:
        assert len(tokenizer.encode(character, add_special_tokens=False)) == 1, character


def test_most_of_the_hundred_themes_are_new() -> None:
    assert len(set(THEMES)) == len(THEMES) == 100
    assert len(set(THEMES) - {poem.theme for poem in POEMS}) >= 70


def test_variants_name_the_theme_and_begin_with_the_theme_alone() -> None:
    variants = (DATA / "prompt_variants.txt").read_text("utf-8").splitlines()
    assert variants[0] == "{theme}"
    assert all(variant.count("{theme}") == 1 for variant in variants)
