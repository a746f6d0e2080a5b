"""What each format looks like, and that training and serving cannot differ."""

from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.tokenizer import QWEN3_ADDED, QWEN3_TEMPLATE, QWEN25_TEMPLATE, HfTokenizer
from tests.core.tokenizer import make_tokenizer as make
from verse.prompt import FormatName, Message, PromptError, PromptFormat, Rendered, Role, render

FORMATS: tuple[FormatName, ...] = get_args(FormatName)
S, U, A = "<|im_start|>system", "<|im_start|>user", "<|im_start|>assistant"
END = "<|im_end|>"
SYSTEM = Message("system", "写诗")
RIVER = Message("user", "河")
RAIN = Message("user", "雨")
POEM = Message("assistant", "河水流过\n\n  我的窗前")
OTHER_POEM = Message("assistant", "雨")
WRAPPED = f"{S}\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.{END}\n{U}\n"

TOKENIZERS = {
    "verse-tiny": make(),
    "qwen2.5": make(QWEN25_TEMPLATE),
    "qwen3": make(QWEN3_TEMPLATE, QWEN3_ADDED),
}
# Rare characters fall apart into bytes, traditional ones among them.
contents = st.text(st.sampled_from("河水流過國龘é\" '\n\t,，。《》🌊abAB12"), max_size=12)


def frame(format_: FormatName, *messages: Message, tokenizer: HfTokenizer, answer: bool) -> str:
    """The rendered text."""
    prompt_format = PromptFormat(format=format_)
    rendered = render(messages, prompt_format, tokenizer, add_generation_prompt=answer)
    return tokenizer.decode(rendered.token_ids)


def masked(rendered: Rendered) -> list[int]:
    """The ids that are learned."""
    pairs = zip(rendered.token_ids, rendered.mask, strict=True)
    return [token for token, is_answer in pairs if is_answer]


@pytest.mark.parametrize(
    ("format_", "text"),
    [
        ("chat", f"{S}\n写诗{END}\n{U}\n河{END}\n{A}\n"),
        ("seed-chatml", f"{S} 写诗{END} {U} 河{END} {A}"),
        ("seed-generate", f"{WRAPPED}{S} 写诗{END} {U} 河{END} {A}{END}\n{A}\n"),
    ],
)
def test_a_prompt_reads(format_: FormatName, text: str, tokenizer: HfTokenizer) -> None:
    assert frame(format_, SYSTEM, RIVER, tokenizer=tokenizer, answer=True) == text


@pytest.mark.parametrize(
    ("format_", "text"),
    [
        ("chat", f"{U}\n河{END}\n{A}\n河水流过\n\n  我的窗前{END}\n"),
        ("seed-chatml", f"{U} 河{END} {A} 河水流过\n\n  我的窗前{END}"),
        ("seed-generate", f"{WRAPPED}{U} 河{END} {A}{END}\n{A}\n河水流过\n\n  我的窗前{END}\n"),
    ],
)
def test_a_training_row_reads(format_: FormatName, text: str, tokenizer: HfTokenizer) -> None:
    assert frame(format_, RIVER, POEM, tokenizer=tokenizer, answer=False) == text


@pytest.mark.parametrize(
    ("format_", "text"),
    [
        ("chat", f"{U}\n河{END}\n{A}\n雨{END}\n{U}\n雨{END}\n{A}\n"),
        ("seed-chatml", f"{U} 河{END} {A} 雨{END} {U} 雨{END} {A}"),
        (
            "seed-generate",
            f"{WRAPPED}{U} 河{END} {A}{END}\n{A}\n雨{END}\n{U}\n{U} 雨{END} {A}{END}\n{A}\n",
        ),
    ],
)
def test_a_conversation_reads(format_: FormatName, text: str, tokenizer: HfTokenizer) -> None:
    assert frame(format_, RIVER, OTHER_POEM, RAIN, tokenizer=tokenizer, answer=True) == text


def test_the_ids_of_each_format_stay_what_they_are(tokenizer: HfTokenizer) -> None:
    ids = {
        format_: list(
            render(
                [RIVER], PromptFormat(format=format_), tokenizer, add_generation_prompt=True
            ).token_ids
        )
        for format_ in FORMATS
    }
    assert ids["chat"] == [1, 860, 201, 866, 2, 201, 1, 862, 201]
    assert ids["seed-chatml"] == [1, 860, 223, 866, 2, 223, 1, 862]
    assert ids["seed-generate"][-14:] == [201, *ids["seed-chatml"], 2, 201, 1, 862, 201]


@pytest.mark.parametrize("base", TOKENIZERS)
@pytest.mark.parametrize("format_", FORMATS)
@given(theme=contents, poem=contents, with_system=st.booleans())
def test_a_training_row_begins_with_what_the_server_sends(
    base: str, format_: FormatName, theme: str, poem: str, with_system: bool
) -> None:
    tokenizer, prompt_format = TOKENIZERS[base], PromptFormat(format=format_)
    asked = [SYSTEM] * with_system + [Message("user", theme)]
    prompt = render(asked, prompt_format, tokenizer, add_generation_prompt=True)
    row = render([*asked, Message("assistant", poem)], prompt_format, tokenizer)
    num_prompt = len(prompt.token_ids)
    assert row.token_ids[:num_prompt] == prompt.token_ids
    assert not any(prompt.mask)
    assert not any(row.mask[:num_prompt])


@pytest.mark.parametrize("base", TOKENIZERS)
@pytest.mark.parametrize("format_", FORMATS)
@given(poems=st.lists(contents, min_size=1, max_size=3))
def test_the_mask_covers_each_answer_and_its_end_token_and_nothing_else(
    base: str, format_: FormatName, poems: list[str]
) -> None:
    tokenizer, prompt_format = TOKENIZERS[base], PromptFormat(format=format_)
    turns = [turn for poem in poems for turn in (RIVER, Message("assistant", poem))]
    row = render(turns, prompt_format, tokenizer)
    answers = [f"{prompt_format.answer_prefix}{poem}{END}" for poem in poems]
    assert tokenizer.decode(masked(row)) == "".join(answers)


@pytest.mark.parametrize("format_", FORMATS)
def test_of_an_empty_answer_only_the_end_token_is_learned(
    format_: FormatName, tokenizer: HfTokenizer
) -> None:
    prompt_format = PromptFormat(format=format_)
    row = render([RIVER, Message("assistant", "")], prompt_format, tokenizer)
    assert tokenizer.decode(masked(row)) == f"{prompt_format.answer_prefix}{END}"


@pytest.mark.parametrize("base", TOKENIZERS)
@given(
    theme=contents,
    # In front of an answer the frame's last line end and the answer's first would be one token.
    poem=contents.map(lambda text: text.lstrip("\n")),
    with_system=st.booleans(),
)
def test_ordinary_text_is_encoded_as_the_models_own_template_does_it(
    base: str, theme: str, poem: str, with_system: bool
) -> None:
    tokenizer = TOKENIZERS[base]
    asked = [SYSTEM] * with_system + [Message("user", theme)]
    row = [*asked, Message("assistant", poem)]
    for messages, answer in ((asked, True), (row, False)):
        expected = tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in messages],
            tokenize=True,
            return_dict=False,
            add_generation_prompt=answer,
            enable_thinking=False,
        )
        rendered = render(messages, PromptFormat(), tokenizer, add_generation_prompt=answer)
        assert list(rendered.token_ids) == expected


def test_a_template_with_a_default_system_message_adds_it(tokenizer: HfTokenizer) -> None:
    qwen25 = TOKENIZERS["qwen2.5"]
    assert frame("chat", RIVER, tokenizer=qwen25, answer=True) == f"{WRAPPED}河{END}\n{A}\n"
    with_system = frame("chat", SYSTEM, RIVER, tokenizer=qwen25, answer=True)
    assert with_system == frame("chat", SYSTEM, RIVER, tokenizer=tokenizer, answer=True)


def test_thinking_is_off_and_not_learned() -> None:
    qwen3 = TOKENIZERS["qwen3"]
    thought = "<think>\n\n</think>\n\n"
    assert frame("chat", RIVER, tokenizer=qwen3, answer=True) == f"{U}\n河{END}\n{A}\n{thought}"
    row = render([RIVER, POEM], PromptFormat(), qwen3)
    assert qwen3.decode(row.token_ids) == f"{U}\n河{END}\n{A}\n{thought}{POEM.content}{END}\n"
    assert qwen3.decode(masked(row)) == f"{POEM.content}{END}"


@pytest.mark.parametrize(
    ("messages", "roles"),
    [
        ([RIVER], ["system", "user"]),
        ([SYSTEM, RIVER], ["system", "user"]),
        ([RIVER, POEM, SYSTEM], ["user", "assistant", "system"]),
    ],
)
def test_the_recorded_system_message_fills_in_for_a_missing_one(
    messages: Sequence[Message], roles: list[Role]
) -> None:
    filled = PromptFormat(system="写古诗").with_system(messages)
    assert [m.role for m in filled] == roles
    assert PromptFormat().with_system(messages) == messages


def test_no_messages_are_an_error(tokenizer: HfTokenizer) -> None:
    with pytest.raises(PromptError, match="no messages"):
        render([], PromptFormat(), tokenizer)


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('System role not supported') }}",
        "{% if %}",
        "{{ nothing.at.all }}",
    ],
)
def test_a_template_that_refuses_is_an_error_that_says_why(template: str) -> None:
    with pytest.raises(PromptError, match="chat template refuses"):
        render([SYSTEM], PromptFormat(), make(template))


def test_a_tokenizer_without_a_template_is_one_sentence_that_says_what_to_do() -> None:
    without = make("{{ messages }}")
    without.chat_template = None
    with pytest.raises(PromptError) as raised:
        render([SYSTEM], PromptFormat(), without)
    assert str(raised.value) == (
        "The model's tokenizer has no chat template: copy chat_template.jinja into its folder, or "
        "continue plain texts with /v1/completions."
    )


def test_the_seed_form_needs_no_template() -> None:
    bare = make("{{ raise_exception('never called') }}")
    assert frame("seed-chatml", RIVER, tokenizer=bare, answer=True) == f"{U} 河{END} {A}"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['content'][1:] }}<|im_end|>{% endfor %}",
        "{% for m in messages %}{% if loop.last %}{{ m['content'] }}{% endif %}{% endfor %}",
        "{% for m in messages %}{{ m['content'] + m['content'] }}{% endfor %}",
    ],
    ids=["cuts an answer", "leaves an answer out", "writes an answer twice"],
)
def test_a_template_that_changes_answers_is_refused(template: str) -> None:
    with pytest.raises(PromptError, match="assistant"):
        render([RIVER, POEM, RAIN], PromptFormat(), make(template))
