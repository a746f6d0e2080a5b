"""Thoughts are taken off whatever family of models wrote them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verse.thinking import SplitReply, holds_tag, split_thought

POEM = "  河水流过\n    我的窗前"
FINAL = "<|channel|>final<|message|>"
TAGS = [
    ("<think>", "</think>"),
    ("<Think>", "</Think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", f"<|end|><|start|>assistant{FINAL}"),
    ("<|channel|>commentary<|message|>", "<|end|><|channel|>final <|constrain|>json<|message|>"),
    ("analysis", "。assistantfinal"),
]
ALL_TAGS = pytest.mark.parametrize(("opening", "closing"), TAGS)
PIECES = st.lists(
    st.sampled_from(
        [*(tag for pair in TAGS for tag in pair), "河水", "\n", " ", "<", "|>", "Poem"]
    ),
    max_size=10,
).map("".join)


@ALL_TAGS
def test_a_thought_goes_and_the_poem_stays_as_it_is(opening: str, closing: str) -> None:
    reply = f"{opening}写一首诗，草稿：{POEM}{closing}"
    assert split_thought(f"{reply}\n\n{POEM}") == SplitReply(POEM, is_open=False)
    assert split_thought(f"<|im_start|>assistant\n{reply}\n{POEM}").answer == POEM


@ALL_TAGS
def test_a_closing_tag_is_enough(opening: str, closing: str) -> None:
    assert split_thought(f"写一首诗{closing}\n{POEM}") == SplitReply(POEM, is_open=False)
    again = f"{opening}一{closing}\n草稿\n{opening}二{closing}\n{POEM}"
    assert split_thought(again).answer == POEM


@ALL_TAGS
@pytest.mark.parametrize("before", ["", "\n ", "<|im_start|>assistant\n", "<|start|>assistant"])
def test_a_thought_that_does_not_end_leaves_nothing(
    opening: str, closing: str, before: str
) -> None:
    if opening == "analysis" and before.endswith("assistant"):
        before = ""  # glued to the role it is another word
    assert split_thought(f"{before}{opening}写一首诗") == SplitReply("", is_open=True)
    if opening != "analysis":
        again = f"{opening}一{closing}\n{opening}二"
        assert split_thought(again) == SplitReply("", is_open=True)


@ALL_TAGS
def test_a_tag_further_on_is_found_and_cuts_nothing(opening: str, closing: str) -> None:
    text = f"河水，\n{opening}写"
    assert split_thought(text) == SplitReply(text, is_open=False)
    assert holds_tag(text)
    assert holds_tag(f"河水。{closing}写")
    assert not holds_tag(POEM)


def test_what_a_harmony_model_says_behind_its_answer_is_none_of_it() -> None:
    reply = f"<|channel|>analysis<|message|>写<|end|><|start|>assistant{FINAL}{POEM}<|return|>"
    assert split_thought(reply).answer == POEM
    assert (
        split_thought(f"{reply}<|start|>assistant<|channel|>analysis<|message|>好").answer == POEM
    )


@pytest.mark.parametrize(
    "text",
    ["", POEM, "think", "我想：<思>", "an analysis of rain", "analysisof", "analysis\nof rain",
     "[think] 一下",
     "the final channel", "</thin>", "assistantfinal"],
)  # fmt: skip
def test_other_texts_are_left_alone(text: str) -> None:
    assert split_thought(text) == SplitReply(text, is_open=False)


@given(PIECES)
def test_what_is_left_holds_no_closing_tag_and_begins_with_no_opening_one(reply: str) -> None:
    answer, is_open = split_thought(reply)
    assert answer in reply
    assert split_thought(answer) == SplitReply(answer, is_open=False) or answer == ""
    assert not (is_open and answer)
