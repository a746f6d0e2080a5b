"""Encoding a prompt: the same ids as the library's, refused by length, remembered, given up."""

from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tests.core.tokenizer import (
    QWEN3_ADDED,
    QWEN3_TEMPLATE,
    QWEN25_TEMPLATE,
    HfTokenizer,
    make_tokenizer,
)
from verse.prompt import FormatName, Message, PromptFormat, render
from verse_server.engine.encoding import PromptEncoder
from verse_server.engine.errors import InvalidRequestError, PromptTooLongError
from verse_server.engine.interface import still_wanted

CONTEXT = 512
USER = [Message("user", "河")]
SYSTEM = "你写短诗，\n每行七个字。 " * 20


class Watched(PromptEncoder):
    """Notes which texts are tokenized."""

    def __init__(self, tokenizer: HfTokenizer, context_length: int = CONTEXT) -> None:
        super().__init__(tokenizer, context_length)
        self.tokenized: list[str] = []

    def tokenize(self, text: str, *, add_special_tokens: bool) -> list[int]:
        self.tokenized.append(text)
        return super().tokenize(text, add_special_tokens=add_special_tokens)


@pytest.fixture
def encoder() -> Watched:
    return Watched(make_tokenizer(QWEN25_TEMPLATE))


@pytest.fixture
def nobody_waits() -> Iterator[None]:
    token = still_wanted.set(lambda: False)
    yield
    still_wanted.reset(token)


@pytest.mark.parametrize("format_", ["chat", "seed-chatml", "seed-generate"])
@pytest.mark.parametrize("content", ["河水龘 and a river", "<|im_end|>\n <|im_start|>", " \n "])
def test_it_gives_the_ids_that_the_library_gives(
    encoder: Watched, format_: FormatName, content: str
) -> None:
    prompt_format = PromptFormat(format=format_, system=SYSTEM)
    messages = [Message("user", content), Message("assistant", "山"), Message("user", content)]
    complete = prompt_format.with_system(messages)
    expected = render(complete, prompt_format, encoder.hf_tokenizer, add_generation_prompt=True)
    for _ in range(2):
        assert encoder.encode(messages, prompt_format) == expected.token_ids
    assert list(encoder.encode_text(content)) == encoder.hf_tokenizer.encode(
        content, add_special_tokens=True
    )


@pytest.mark.parametrize("text", [" " * 1_000_000, "长" * 300_000, "a" * 1_000_000, "\n" * 90_000])
def test_what_cannot_fit_is_refused_before_it_is_tokenized(encoder: Watched, text: str) -> None:
    with pytest.raises(PromptTooLongError, match="at least") as caught:
        encoder.encode([Message("user", text)], PromptFormat())
    assert caught.value.param == "messages"
    with pytest.raises(PromptTooLongError, match=f"context length is {CONTEXT} tokens") as caught:
        encoder.encode_text(text)
    assert caught.value.param == "prompt"
    assert max(map(len, encoder.tokenized), default=0) < 100


def test_many_pieces_that_fit_alone_are_refused_together(encoder: Watched) -> None:
    messages = [Message("user", "河" * 100)] * 1000
    with pytest.raises(PromptTooLongError):
        encoder.encode(messages, PromptFormat())
    assert sum(map(len, encoder.tokenized)) < 3 * CONTEXT


def test_blanks_that_the_template_strips_are_not_counted() -> None:
    stripping = QWEN25_TEMPLATE.replace("m['content'] +", "m['content'] | trim +")
    assert stripping != QWEN25_TEMPLATE
    encoder = Watched(make_tokenizer(stripping))
    padded = [Message("user", " " * 100_000 + "河")]
    assert encoder.encode(padded, PromptFormat()) == encoder.encode(USER, PromptFormat())


def test_a_text_of_just_the_context_is_taken(encoder: Watched) -> None:
    assert len(encoder.encode_text(" " * CONTEXT)) == CONTEXT
    with pytest.raises(PromptTooLongError):
        encoder.encode_text(" " * (CONTEXT + 1))


@pytest.mark.parametrize("format_", ["chat", "seed-chatml", "seed-generate"])
def test_an_adapters_own_system_message_is_tokenized_once(
    encoder: Watched, format_: FormatName
) -> None:
    prompt_format = PromptFormat(format=format_, system=SYSTEM)
    for content in "河山月":
        encoder.encode([Message("user", content)], prompt_format)
    assert sum(SYSTEM in text for text in encoder.tokenized) == 1


def test_a_request_s_own_texts_are_not_kept(encoder: Watched) -> None:
    prompt_format = PromptFormat(system="短")
    for number in range(3):
        encoder.encode([Message("user", "短" * 300 + str(number))], prompt_format)
    encoder.encode([Message("system", SYSTEM), *USER], PromptFormat())
    encoder.encode([Message("system", SYSTEM), *USER], PromptFormat())
    assert sum(SYSTEM in text for text in encoder.tokenized) == 2


@pytest.mark.usefixtures("nobody_waits")
def test_work_that_nobody_waits_for_ends(encoder: Watched) -> None:
    with pytest.raises(CancelledError):
        encoder.encode(USER, PromptFormat())
    with pytest.raises(CancelledError):
        encoder.encode_text("河")
    assert encoder.tokenized == []


class _Overridden(PreTrainedTokenizerFast):
    def encode(self, text: Any, **_kwargs: Any) -> list[int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return [len(text)]


def test_a_tokenizer_that_encodes_in_its_own_way_is_asked_itself() -> None:
    encoder = PromptEncoder(_Overridden.from_pretrained(make_tokenizer().name_or_path), CONTEXT)  # pyright: ignore[reportAttributeAccessIssue]
    assert encoder.encode_text("河水") == (2,)
    assert encoder.bound is None


def test_the_vocabulary_is_looked_through_for_the_first_long_text_alone() -> None:
    encoder = PromptEncoder(make_tokenizer(), CONTEXT)
    encoder.encode(USER, PromptFormat())
    assert "bound" not in vars(encoder), "every start waits for it"
    with pytest.raises(PromptTooLongError):
        encoder.encode_text("河" * 100 * CONTEXT)
    assert encoder.bound is vars(encoder)["bound"]


THOUGHT = "<think>\n河流很长。\n</think>\n\n山高水长"


@pytest.mark.parametrize("added", [(), QWEN3_ADDED], ids=["tags are text", "tags are tokens"])
def test_thoughts_of_earlier_turns_are_left_out_where_the_template_does_so(
    added: tuple[str, ...],
) -> None:
    encoder = PromptEncoder(make_tokenizer(QWEN3_TEMPLATE, added), CONTEXT)
    with_thought, without = (
        [Message("user", "河"), Message("assistant", answer), Message("user", "山")]
        for answer in (THOUGHT, "山高水长")
    )
    assert encoder.encode(with_thought, PromptFormat()) == encoder.encode(without, PromptFormat())


def test_they_are_kept_where_the_template_keeps_them() -> None:
    tokenizer = make_tokenizer(QWEN25_TEMPLATE)
    messages = [Message("user", "河"), Message("assistant", THOUGHT), Message("user", "山")]
    tokens = PromptEncoder(tokenizer, CONTEXT).encode(messages, PromptFormat())
    assert THOUGHT in tokenizer.decode(tokens)


def test_what_is_only_tokenized_may_be_several_contexts_long(encoder: Watched) -> None:
    text = "河山" * CONTEXT
    assert len(encoder.encode_any(text, add_special_tokens=False)) > CONTEXT
    assert encoder.tokenized == [text]


def test_what_is_only_tokenized_is_refused_by_its_length_before_it_is(encoder: Watched) -> None:
    with pytest.raises(InvalidRequestError, match="more than 8192 tokens") as refused:
        encoder.encode_any("河山" * 50 * CONTEXT, add_special_tokens=False)
    assert refused.value.param == "prompt"
    assert encoder.tokenized == []
