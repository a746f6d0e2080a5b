"""A poem taken out of what a chat model puts around it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verse_clients.generate.cleaning import Cleaned, clean

POEM = "  河水流过\n    我的窗前，\n\n带走一页信"
PIECES = st.lists(
    st.sampled_from([
        "河", "水流", "\n", "\n\n", " ", "，", "：", "好的，", "以下是一首诗：", "```", "《河》",
        "**河**", "# 河", "<|im_end|>", "<|im_start|>", "user", "assistant\n", "希望你喜欢", "---",
        "注：", "\r\n", "这首诗通过", "<think>", "</think>", "Sure! ", "Here is a poem:",
    ]),
    max_size=12,
).map("".join)  # fmt: skip


def test_a_poem_alone_is_left_as_it_is() -> None:
    assert clean(POEM, "河") == Cleaned(POEM, False)


@pytest.mark.parametrize(
    "before",
    [
        "好的，以下是一首关于河的诗：\n\n",
        "当然可以！这是为您写的诗：\n",
        "好的。\n\n",
        "以下是以“河”为主题的现代诗：\n\n《河》\n\n",
        "Sure! Here is a poem:\n\n",
        "《河》\n",
        "《远行》\n\n",
        "# 河\n\n",
        "**河**\n\n",
        "标题：河\n",
        "河\n\n",
        "<|im_start|>assistant\n",
        "<think>\n写一首诗。\n</think>\n\n",
        "写一首诗。\n</think>\n\n",
        "好的。\n<think>写一首《河》</think>\n",
        "<|channel|>analysis<|message|>写诗<|end|><|start|>assistant<|channel|>final<|message|>",
        "\n\n",
    ],
)
@pytest.mark.parametrize(
    ("behind", "is_ended"),
    [
        ("", False),
        ("\n \n", False),
        ("<|im_end|>\n<|im_start|>user\n松", True),
        ("<|endoftext|>山", True),
        ("\nuser\n松", True),
        ("\n\n希望您喜欢这首诗！", True),
        ("\n\n---\n\n这首诗通过河水写离别。", True),
        ("\n\n（注：信是写给母亲的。）", True),
    ],
)
def test_what_stands_around_a_poem_is_taken_off(before: str, behind: str, is_ended: bool) -> None:
    assert clean(before + POEM + behind, "河") == Cleaned(POEM, is_ended)


def test_a_fence_around_a_poem_and_all_behind_it_goes() -> None:
    assert clean(f"好的：\n```text\n{POEM}\n```\n这是解释。", "河") == Cleaned(POEM, True)


@pytest.mark.parametrize(
    "poem",
    [
        "好的，我这就回家\n河水还在流",
        "这是春天：\n雪还没有化",
        "河\n水还在流",
        "当然，我记得\n那条河",
        "以下\n是河",
        "希望你\n也看见河",
        "这首诗\n写给河",
        "user\n是我在这里的名字",
        "《河》",
        "一\n---\n二",
    ],
)
def test_lines_of_a_poem_that_look_alike_stay(poem: str) -> None:
    assert clean(poem, "山").text == poem


def test_spaces_at_the_end_of_lines_go_and_those_at_the_beginning_stay() -> None:
    assert clean("  河 \r\n\t水　\r\n", "山").text == "  河\n\t水"


@given(PIECES)
def test_cleaning_a_cleaned_text_changes_nothing(answer: str) -> None:
    once = clean(answer, "河").text
    assert clean(once, "河") == Cleaned(once, False)


@given(PIECES)
def test_no_character_is_made_up_or_moved(answer: str) -> None:
    rest = iter(answer)
    assert all(char in rest for char in clean(answer, "河").text)


@pytest.mark.parametrize(
    "before", ["", "好的，以下是一首诗：\n", "<|im_start|>assistant\n", "```\n"]
)
@pytest.mark.parametrize("opening", ["<think>", "<thinking>", "[THINK]", "<seed:think>"])
def test_a_thought_that_does_not_end_is_no_poem(before: str, opening: str) -> None:
    assert clean(f"{before}{opening}\n{POEM}", "河") == Cleaned("", False, is_thought=True)
