"""Themes and whole prompts, as people type them."""

import pytest

from verse.prompt import Message
from verse_clients.chat_prompts import Prompt, messages, prompts
from verse_clients.errors import InputError

SYSTEM = "<|im_start|>system 写诗<|im_end|> "


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        (f"{SYSTEM}<|im_start|>user 河<|im_end|> <|im_start|>assistant", "河"),
        (f"{SYSTEM}<|im_start|>user 河\\n\\n<|im_end|> <|im_start|>assistant", "河\n\n"),
        (f"{SYSTEM}<|im_start|>user 河", "河"),
        (f"{SYSTEM}<|im_start|>user 河\\n\\n", "河\n\n"),
        ("<|im_start|>system\n写诗<|im_end|>\n<|im_start|>user\n河<|im_end|>\n", "河"),
    ],
)
def test_the_originals_variants_of_a_prompt_are_read_as_turns(typed: str, asked: str) -> None:
    (prompt,) = prompts(typed)
    assert prompt.theme == "河"
    assert prompt.variant == typed.strip().replace("河", "{theme}")
    assert messages(prompt.variant, "河") == [Message("system", "写诗"), Message("user", asked)]


def test_what_an_assistant_already_said_is_kept() -> None:
    (prompt,) = prompts("<|im_start|>user 河<|im_end|> <|im_start|>assistant 河水")
    assert messages(prompt.variant, prompt.theme) == [
        Message("user", "河"),
        Message("assistant", "河水"),
    ]


def test_a_file_of_whole_prompts_is_several() -> None:
    text = f"{SYSTEM}<|im_start|>user 河<|im_end|> <|im_start|>assistant\n"
    assert [prompt.theme for prompt in prompts(text + text.replace("河", "雨"))] == ["河", "雨"]


def test_words_are_themes() -> None:
    assert list(prompts("河 雨\n\n雪 ")) == [
        Prompt("河", None),
        Prompt("雨", None),
        Prompt("雪", None),
    ]
    assert messages(None, "河") == [Message("user", "河")]
    assert messages("写{theme}", "河") == [Message("user", "写河")]


@pytest.mark.parametrize("typed", ["<|im_start|>", f"{SYSTEM}<|im_start|>user <|im_end|>"])
def test_a_prompt_without_a_theme_is_refused(typed: str) -> None:
    with pytest.raises(InputError, match="no user turn"):
        list(prompts(typed))
