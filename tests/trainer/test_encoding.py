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
from verse_trainer.encoding import (
    Encoder,
    common_system,
    encode_rows,
    long_row_notes,
    recorded_format,
    rows_hash,
)
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
def test_a_row_that_is_too_long_is_named_and_stops_a_run_that_is_to_stop(
    keys: dict[str, Any], context: int, limit: str
) -> None:
    stops = encoder(context=context, long_rows="stop", **keys)
    with pytest.raises(DataSetError, match=r"train\.jsonl:7: it has \d+ tokens") as caught:
        encode_rows([row("河", "水" * 60, line=7)], stops)
    assert limit in str(caught.value)


LONG = "河水流\n灯不走\n岸在等\n雨没来"


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("num_lines", [1, 2, 3])
def test_a_row_that_is_too_long_is_cut_at_a_lines_end_and_does_not_end_there(
    num_lines: int, format_: FormatName
) -> None:
    tokenizer = make_tokenizer()
    kept = "\n".join(LONG.split("\n")[:num_lines])
    whole = encoder(tokenizer, prompt_format=format_, context=4096)
    (full,) = encode_rows([row("河", kept)], whole)
    # One more token than the kept lines need, and fewer than the next line does.
    limit = next(n for n in range(4096) if _fits(row("河", kept), n, tokenizer, format_))
    cuts = encoder(tokenizer, prompt_format=format_, max_seq_length=limit, context=4096)
    short, (cut,) = row("灯", "亮"), encode_rows([row("河", LONG, line=3)], cuts)
    assert cut.poem == kept
    assert cut.token_ids == full.token_ids[: full.targets[-2] + 1]
    assert cut.targets == full.targets[:-1]
    assert [(r.place, r.was_cut) for r in cuts.long_rows] == [("train.jsonl:3", True)]
    assert encode_rows([short], cuts)[0].poem == "亮"
    (note,) = long_row_notes(cuts)
    assert note == (
        f"1 row was too long and cut at a line's end (max_seq_length allows {limit} tokens): "
        "train.jsonl:3."
    )


def _fits(one: DataRow, limit: int, tokenizer: Any, format_: FormatName) -> bool:
    stops = encoder(
        tokenizer, prompt_format=format_, max_seq_length=limit, context=4096, long_rows="stop"
    )
    try:
        encode_rows([one], stops)
    except DataSetError:
        return False
    return True


@pytest.mark.parametrize("long_rows", ["cut", "skip"])
def test_a_row_of_which_no_line_fits_is_left_out_and_told(long_rows: str) -> None:
    rows = [row("河", "水" * 200, line=2), row("灯", "亮", line=5)]
    leaves = encoder(max_seq_length=100, long_rows=long_rows)
    (encoded,) = encode_rows(rows, leaves)
    assert encoded.poem == "亮"
    assert [note for note in long_row_notes(leaves) if "left out" in note and "jsonl:2." in note]
    with pytest.raises(DataSetError, match="all rows are too long; max_seq_length allows 100"):
        encode_rows(rows[:1], leaves)


def test_a_row_as_long_as_the_limit_is_taken_whole() -> None:
    (encoded,) = encode_rows([row("河", "河水。")], encoder())
    limit = encoded.num_tokens + 1  # the line end after the end token is rendered, not learned
    encode_rows([row("河", "河水。")], encoder(max_seq_length=limit, long_rows="stop"))
    with pytest.raises(DataSetError):
        encode_rows([row("河", "河水。")], encoder(max_seq_length=limit - 1, long_rows="stop"))


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
