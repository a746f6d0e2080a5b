"""Qwen3 thinks unless it is told not to: training rows and served prompts must agree on that."""

from tests.core.tokenizer import QWEN3_ADDED, QWEN3_TEMPLATE, make_tokenizer
from verse.prompt import POEM_SYSTEM, Message, PromptFormat, render
from verse_trainer.config import TrainConfig
from verse_trainer.encoding import Encoder

PROMPT = [Message("system", POEM_SYSTEM), Message("user", "河")]
POEM = "河水流过\n我的窗前"


def test_a_training_row_begins_with_the_ids_the_server_sends_thinking_off() -> None:
    tokenizer = make_tokenizer(QWEN3_TEMPLATE, QWEN3_ADDED)
    encoder = Encoder(TrainConfig(), tokenizer, 4096, POEM_SYSTEM)
    row = encoder.encode([*PROMPT, Message("assistant", POEM)], "train.jsonl:1")
    served = render(
        PROMPT, PromptFormat(system=POEM_SYSTEM), tokenizer, add_generation_prompt=True
    ).token_ids
    assert row.token_ids[: len(served)] == served
    assert tokenizer.decode(served).endswith("assistant\n<think>\n\n</think>\n\n")


def test_the_empty_thought_is_not_learned() -> None:
    tokenizer = make_tokenizer(QWEN3_TEMPLATE, QWEN3_ADDED)
    encoder = Encoder(TrainConfig(), tokenizer, 4096, POEM_SYSTEM)
    row = encoder.encode([*PROMPT, Message("assistant", POEM)], "train.jsonl:1")
    learned = tokenizer.decode([row.token_ids[place] for place in row.targets])
    assert learned == f"{POEM}<|im_end|>"
