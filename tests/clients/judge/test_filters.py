"""What no judge needs to see."""

import pytest

from tests.clients.judge.simulated import poems
from verse.records import Candidate, Poem
from verse_clients.judge.filters import Filters

GOOD = "旧街的灯\n一盏一盏认出自己\n河不回头"


def reason(text: str, theme: str = "灯", filters: Filters | None = None, **fields: object) -> str:
    poem = Candidate(theme=theme, text=text, **fields)  # pyright: ignore
    found = (filters or Filters()).look(poem)
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
    filters = Filters()
    assert reason(GOOD, filters=filters) == ""
    assert reason(GOOD.replace("\n", "，\n"), filters=filters, sample=1) == "near"


def test_a_poem_left_out_takes_no_other_with_it() -> None:
    filters = Filters()
    assert reason(GOOD, filters=filters, finish_reason="length") == "truncated"
    assert reason(GOOD, filters=filters, sample=1) == ""


def test_copies_of_the_poets_own_poems_are_left_out_with_their_source() -> None:
    filters = Filters([Poem(theme="旧街", text=GOOD)])
    found = filters.look(Candidate(theme="灯", text=GOOD + "\n门开着"))
    assert found is not None
    assert found.reason == "copy"
    assert found.detail.startswith("《旧街》 旧街的灯")


def test_what_verse_generate_blocked_stays_blocked() -> None:
    assert reason(GOOD, blocked="copy", copied_from="《旧街》") == "copy"
    assert reason(GOOD, blocked="duplicate", duplicate_of="x") == "near"


def test_ordinary_poems_pass() -> None:
    filters = Filters()
    assert [filters.look(poem) for poem in poems(40)] == [None] * 40
