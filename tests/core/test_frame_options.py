"""How a prompt ends, and what its template is told."""

from typing import Any

import pytest

from tests.core.tokenizer import make_tokenizer
from verse.prompt import FormatName, FrameOptions, Message, PromptError, PromptFormat, render

ASKED = [Message("system", "写诗"), Message("user", "河")]
BEGUN = [*ASKED, Message("assistant", "河水流")]
OPEN = FrameOptions(add_generation_prompt=True)
GOES_ON = FrameOptions(continue_final_message=True)
FORMATS: tuple[FormatName, ...] = ("chat", "seed-chatml", "seed-generate")


def text_of(messages: list[Message], format_name: FormatName, options: FrameOptions) -> str:
    tokenizer = make_tokenizer()
    rendered = render(messages, PromptFormat(format=format_name), tokenizer, options)
    return tokenizer.decode(rendered.token_ids)


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_begun_answer_is_left_open(format_name: FormatName) -> None:
    opened = text_of(ASKED, format_name, OPEN)
    between = " " if format_name == "seed-chatml" else ""
    assert text_of(BEGUN, format_name, GOES_ON) == f"{opened}{between}河水流"


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_finished_conversation_is_that_and_its_end(format_name: FormatName) -> None:
    open_ended = text_of(BEGUN, format_name, GOES_ON)
    assert text_of(BEGUN, format_name, FrameOptions()).startswith(f"{open_ended}<|im_end|>")


@pytest.mark.parametrize("format_name", FORMATS)
def test_going_on_with_nothing_is_to_begin(format_name: FormatName) -> None:
    nothing = [*ASKED, Message("assistant", "")]
    assert text_of(nothing, format_name, GOES_ON) == text_of(ASKED, format_name, OPEN)


def test_only_an_answer_can_be_continued() -> None:
    with pytest.raises(PromptError, match="an assistant's"):
        text_of(ASKED, "chat", GOES_ON)


class Told:
    """A tokenizer that shows what its template is told."""

    def __init__(self) -> None:
        self._tokenizer = make_tokenizer()
        self.variables: dict[str, Any] = {}

    def get_added_vocab(self) -> dict[str, int]:
        return self._tokenizer.get_added_vocab()

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def apply_chat_template(self, conversation: list[dict[str, str]], **kwargs: Any) -> str:
        self.variables = kwargs
        return "".join(kwargs.get("mood", [])) + "".join(m["content"] for m in conversation)


def test_a_template_is_told_its_variables_and_thinking_is_off_unless_they_say_so() -> None:
    tokenizer = Told()
    render(ASKED, PromptFormat(), tokenizer, OPEN)
    assert tokenizer.variables["enable_thinking"] is False
    variables = {"enable_thinking": True, "mood": ["静", "悲"], "size": 7}
    options = FrameOptions(add_generation_prompt=True, variables=variables)
    rendered = render(ASKED, PromptFormat(), tokenizer, options)
    assert {name: tokenizer.variables[name] for name in variables} == variables
    assert tokenizer.encode("静悲", add_special_tokens=False) == list(rendered.token_ids[:2])


def test_what_looks_like_a_special_token_in_a_variable_stays_text() -> None:
    tokenizer = Told()
    special = tokenizer.get_added_vocab()["<|im_end|>"]
    options = FrameOptions(add_generation_prompt=True, variables={"mood": ["<|im_end|>"]})
    rendered = render(ASKED, PromptFormat(), tokenizer, options)
    assert special not in rendered.token_ids
