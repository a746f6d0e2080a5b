"""Rows as token ids: what is learned, and that the server will send the same frame."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.core.tokenizer import QWEN3_ADDED, QWEN3_TEMPLATE, QWEN25_TEMPLATE, make_tokenizer
from verse.prompt import POEM_SYSTEM, FormatName, Message, PromptFormat, render
from verse.records import TrainingExample
from verse_trainer.config import TrainConfig
from verse_trainer.data_set.rows import DataRow
from verse_trainer.encoding import Encoder, common_system, encode_rows, recorded_format, rows_hash
from verse_trainer.errors import DataSetError

FORMATS: tuple[FormatName, ...] = ("chat", "seed-chatml", "seed-generate")
POEMS = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "data" / "poems.jsonl").read_text("utf-8").splitlines()
]


def row(theme: str, poem: str, system: str | None = POEM_SYSTEM, line: int = 1) -> DataRow:
    lead = () if system is None else (Message("system", system),)
    messages = (*lead, Message("user", theme), Message("assistant", poem))
    return DataRow(example=TrainingExample(messages=messages), path=Path("train.jsonl"), line=line)


def encoder(tokenizer: Any = None, context: int = 512, **keys: Any) -> Encoder:
    return Encoder(TrainConfig(**keys), tokenizer or make_tokenizer(), context, POEM_SYSTEM)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("template", [None, QWEN25_TEMPLATE, QWEN3_TEMPLATE])
def test_a_row_begins_with_the_ids_the_server_sends(
    format_: FormatName, template: str | None
) -> None:
    added = QWEN3_ADDED if template == QWEN3_TEMPLATE else ()
    tokenizer = make_tokenizer(template, added)
    rows = [row(poem["theme"], poem["text"]) for poem in POEMS]
    encode = encoder(tokenizer, prompt_format=format_, max_seq_length=4096, context=4096)
    encoded = encode_rows(rows, encode)
    # As the server does it: the recorded format, and a request with nothing but the theme.
    recorded = recorded_format(encode.prompt_format, encoded[0], tokenizer)
    served_as = msgspec.json.decode(msgspec.json.encode(recorded), type=PromptFormat)
    for poem, trained in zip(POEMS, encoded, strict=True):
        asked = served_as.with_system([Message("user", poem["theme"])])
        served = render(asked, served_as, tokenizer, add_generation_prompt=True).token_ids
        assert trained.token_ids[: len(served)] == served
        assert trained.targets == tuple(range(len(served), trained.num_tokens))


def test_the_answer_and_its_end_are_learned_and_nothing_else() -> None:
    tokenizer = make_tokenizer()
    (encoded,) = encode_rows([row("河", "河水。")], encoder(tokenizer))
    learned = [encoded.token_ids[place] for place in encoded.targets]
    assert tokenizer.decode(learned) == "河水。<|im_end|>"


def test_every_answer_of_a_conversation_is_learned() -> None:
    tokenizer = make_tokenizer()
    turns = [Message("user", "河"), Message("assistant", "一"), Message("user", "灯")]
    messages = [*turns, Message("assistant", "二")]
    encoded = encoder(tokenizer).encode(messages, "train.jsonl:1")
    learned = [encoded.token_ids[place] for place in encoded.targets]
    assert tokenizer.decode(learned) == "一<|im_end|>二<|im_end|>"


def test_with_the_prompt_unmasked_all_but_the_first_token_is_learned() -> None:
    (encoded,) = encode_rows([row("河", "河水。")], encoder(mask_prompt=False))
    assert encoded.targets == tuple(range(1, encoded.num_tokens))


@pytest.mark.parametrize("mask_prompt", [True, False])
def test_the_end_token_is_recorded_as_what_stops_a_poem(mask_prompt: bool) -> None:
    tokenizer = make_tokenizer()
    encode = encoder(tokenizer, mask_prompt=mask_prompt)
    (encoded,) = encode_rows([row("河", "河水。")], encode)
    assert recorded_format(encode.prompt_format, encoded, tokenizer).stop == ("<|im_end|>",)


def test_the_template_is_recorded_where_it_counts() -> None:
    hashes = {}
    for template in (QWEN25_TEMPLATE, QWEN3_TEMPLATE):
        for format_ in FORMATS:
            tokenizer = make_tokenizer(template, QWEN3_ADDED)
            encode = encoder(tokenizer, prompt_format=format_)
            (encoded,) = encode_rows([row("河", "河水。")], encode)
            recorded = recorded_format(encode.prompt_format, encoded, tokenizer)
            hashes[template, format_] = recorded.template_sha256
    assert hashes[QWEN25_TEMPLATE, "seed-chatml"] is None
    assert hashes[QWEN25_TEMPLATE, "chat"] == hashes[QWEN25_TEMPLATE, "seed-generate"]
    assert hashes[QWEN25_TEMPLATE, "chat"] != hashes[QWEN3_TEMPLATE, "chat"]


@pytest.mark.parametrize(
    ("systems", "expected"),
    [(("a", "a"), "a"), (("a", "b"), None), (("a", None), None), ((None, None), None)],
)
def test_a_system_message_is_recorded_only_if_all_rows_share_it(
    systems: tuple[str | None, ...], expected: str | None
) -> None:
    assert common_system([row("河", "水", system) for system in systems]) == expected


@pytest.mark.parametrize(
    ("keys", "context", "limit"),
    [({"max_seq_length": 40}, 512, "max_seq_length allows 40"), ({}, 30, "context allows 30")],
)
def test_a_row_that_is_too_long_is_named_and_never_cut(
    keys: dict[str, Any], context: int, limit: str
) -> None:
    with pytest.raises(DataSetError, match=r"train\.jsonl:7: it has \d+ tokens") as caught:
        encode_rows([row("河", "水" * 60, line=7)], encoder(context=context, **keys))
    assert limit in str(caught.value)


def test_a_row_as_long_as_the_limit_is_taken_whole() -> None:
    (encoded,) = encode_rows([row("河", "河水。")], encoder())
    limit = encoded.num_tokens + 1  # the line end after the end token is rendered, not learned
    encode_rows([row("河", "河水。")], encoder(max_seq_length=limit))
    with pytest.raises(DataSetError):
        encode_rows([row("河", "河水。")], encoder(max_seq_length=limit - 1))


def test_a_row_without_an_answer_is_named() -> None:
    with pytest.raises(DataSetError, match=r"x\.jsonl:3: it has no answer"):
        encoder().encode([Message("user", "河")], "x.jsonl:3")


def test_the_hash_of_the_rows_is_that_of_what_is_learned() -> None:
    encode = encoder()
    one, two = row("河", "河水。"), row("灯", "灯火。")
    base = rows_hash(encode_rows([one, two], encode))
    moved = msgspec.structs.replace(one, path=Path("elsewhere.jsonl"), line=9)
    assert rows_hash(encode_rows([moved, two], encode)) == base
    assert rows_hash(encode_rows([two, one], encode)) != base
    assert rows_hash(encode_rows([row("河", "河水！"), two], encode)) != base
