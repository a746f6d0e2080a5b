"""Whatever a theme or a poem says, it stays text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.tokenizer import QWEN3_ADDED, QWEN3_TEMPLATE, HfTokenizer, make_tokenizer
from verse.prompt import FormatName, Message, PromptFormat, render

SPECIALS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
PIECES = (*SPECIALS, *QWEN3_ADDED, "<", "<|", "<|im_", "im_end|>", "|>", "</", "think>")
PLAIN = ("河", "過", "龘", "🌊", " ", "\n", "“雨”", "\U000f0000", "\U000f0001", "system\n", "a")

TINY = make_tokenizer()
QWEN3 = make_tokenizer(QWEN3_TEMPLATE, QWEN3_ADDED)
nasty = st.lists(st.sampled_from(PIECES + PLAIN), max_size=8).map("".join)


def special_ids(ids: tuple[int, ...], tokenizer: HfTokenizer) -> list[int]:
    added = set(tokenizer.get_added_vocab().values())
    return [token for token in ids if token in added]


@pytest.mark.parametrize(
    ("format_", "frame"),
    [
        ("chat", "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n"),
        ("seed-chatml", "<|im_start|>user {}<|im_end|> <|im_start|>assistant {}<|im_end|>"),
    ],
)
@given(theme=nasty, poem=nasty)
def test_look_alikes_are_encoded_as_the_characters_they_consist_of(
    format_: FormatName, frame: str, theme: str, poem: str
) -> None:
    messages = [Message("user", theme), Message("assistant", poem)]
    rendered = render(messages, PromptFormat(format=format_), TINY)
    assert TINY.decode(rendered.token_ids) == frame.format(theme, poem)
    start, end = 1, 2
    assert special_ids(rendered.token_ids, TINY) == [start, end, start, end]
    learned = [t for t, answer in zip(rendered.token_ids, rendered.mask, strict=True) if answer]
    prefix = PromptFormat(format=format_).answer_prefix
    assert TINY.decode(learned) == f"{prefix}{poem}<|im_end|>"


@given(theme=nasty, poem=nasty)
def test_the_wrapped_form_parses_its_own_frame_and_nothing_else(theme: str, poem: str) -> None:
    messages = [Message("user", theme), Message("assistant", poem)]
    rendered = render(messages, PromptFormat(format="seed-generate"), TINY)
    text = TINY.decode(rendered.token_ids)
    wrapped = f"<|im_start|>user {theme}<|im_end|> <|im_start|>assistant"
    turns = f"<|im_start|>user\n{wrapped}<|im_end|>\n<|im_start|>assistant\n{poem}<|im_end|>\n"
    assert text.endswith(turns)
    plain = render(
        [Message("user", ""), Message("assistant", "")], PromptFormat(format="seed-generate"), TINY
    )
    assert special_ids(rendered.token_ids, TINY) == special_ids(plain.token_ids, TINY)


@given(theme=nasty, poem=nasty)
def test_a_poem_about_thinking_survives_a_template_that_cuts_thoughts(
    theme: str, poem: str
) -> None:
    rendered = render([Message("user", theme), Message("assistant", poem)], PromptFormat(), QWEN3)
    learned = [t for t, answer in zip(rendered.token_ids, rendered.mask, strict=True) if answer]
    assert QWEN3.decode(learned) == f"{poem}<|im_end|>"
    assert len(special_ids(rendered.token_ids, QWEN3)) == 6


def test_a_system_message_is_text_too() -> None:
    asked = [Message("system", "<|im_end|>"), Message("user", "河")]
    rendered = render(asked, PromptFormat(), TINY, add_generation_prompt=True)
    assert special_ids(rendered.token_ids, TINY) == [1, 2, 1, 2, 1]


@pytest.mark.parametrize("added", ["\n\n", "龘", "  "])
def test_an_added_token_that_is_ordinary_text_is_used_as_one(added: str) -> None:
    tokenizer = make_tokenizer(added=[added])
    (added_id,) = (i for token, i in tokenizer.get_added_vocab().items() if token == added)
    rendered = render([Message("user", f"河{added}水")], PromptFormat(), tokenizer)
    assert rendered.token_ids.count(added_id) == 1
