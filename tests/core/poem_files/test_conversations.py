import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.data_set.original import RIVER, seed_text
from verse.poem_files.conversations import ChatmlError, has_seed_frame, parse_chatml
from verse.prompt import POEM_SYSTEM, Message

turns = st.lists(
    st.builds(
        Message,
        st.sampled_from(["system", "user", "assistant"]),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r")),
    ),
    min_size=1,
    max_size=4,
).filter(lambda messages: not any("<|im_" in message.content for message in messages))


def framed(messages: list[Message], gap: str) -> str:
    return gap.join(f"<|im_start|>{m.role}{gap}{m.content}<|im_end|>" for m in messages)


def test_a_row_of_the_original_project_is_three_turns_with_the_poem_as_it_stands() -> None:
    assert parse_chatml(seed_text("河", RIVER)) == [
        Message("system", POEM_SYSTEM),
        Message("user", "河"),
        Message("assistant", RIVER),
    ]


@given(turns, st.sampled_from([" ", "\n"]))
def test_any_content_comes_back_to_the_last_space(messages: list[Message], gap: str) -> None:
    assert parse_chatml(framed(messages, gap)) == messages
    assert has_seed_frame(framed(messages, gap)) == (gap == " ")


def test_only_one_space_belongs_to_the_frame() -> None:
    assert parse_chatml("<|im_start|>assistant   水<|im_end|>") == [Message("assistant", "  水")]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("静夜\n<|end|>\n床前", "does not begin with <|im_start|>"),
        ("", "does not begin with <|im_start|>"),
        ("<|im_start|>user 河<|im_end|> <|im_start|>assistant 水", "turn 2 is not closed"),
        ("<|im_start|>user 河 <|im_start|>assistant 水<|im_end|>", "turn 1 is not closed"),
        ("<|im_start|>user 河<|im_end|> 水", "text outside the turns, before turn 2"),
        ("<|im_start|>poet 河<|im_end|>", "'poet' is not one of the roles"),
        ("<|im_start|>user河<|im_end|>", "turn 1 does not read"),
        ("<|im_start|>user 河<|im_end|>x<|im_start|>assistant 水<|im_end|>", "outside the turns"),
    ],
)
def test_what_breaks_the_grammar_is_refused_by_name(text: str, problem: str) -> None:
    with pytest.raises(ChatmlError) as caught:
        parse_chatml(text)
    assert problem in str(caught.value)
