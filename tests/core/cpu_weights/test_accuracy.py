"""Packed weights of a real model against float32, over 200 poems teacher-forced.

`VERSE_QWEN=FOLDER_OR_ID uv run pytest -m qwen -s tests/core/cpu_weights/test_accuracy.py`: the
three models take 5 GB together, and about ten minutes on two cores.
"""

import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import msgspec
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from verse.base_model import BaseModel, load_base_model
from verse.cpu_weights.packed import PackedKind

POEMS = Path(__file__).parents[3] / "data" / "poems.jsonl"
NUM_POEMS = int(os.environ.get("VERSE_QWEN_POEMS", "200"))
ASKED = ("写一首现代诗，题目是“{}”。", "以“{}”为题写诗，不押韵，二十行以内。")


def poems(base: BaseModel) -> Iterator[tuple[list[int], int]]:
    """Prompt and poem as tokens, and where the poem begins."""
    tokenizer: Any = base.tokenizer
    rows = [
        msgspec.json.decode(line, type=dict[str, str]) for line in POEMS.read_bytes().splitlines()
    ]
    for asked in ASKED:
        for row in rows:
            messages = [{"role": "user", "content": asked.format(row["theme"])}]
            prompt = list(tokenizer.apply_chat_template(messages, add_generation_prompt=True))
            yield prompt + list(tokenizer.encode(row["text"])), len(prompt)


def logits_of(base: BaseModel, tokens: list[int], start: int) -> Any:
    """(poem tokens, vocab), of the token before each."""
    model = cast(Any, base.model)
    logits = model(mx.array([tokens]), cache=make_prompt_cache(model))
    return np.array(logits[:, start - 1 : -1])[0]


class Agreement:
    """Of one kind of weights with float32."""

    def __init__(self, kind: PackedKind, model: str) -> None:
        self.kind = kind
        self.base = load_base_model(model, cpu_weights=kind)
        self.num_tokens = 0
        self.num_same = 0
        self.within: list[float] = []
        self.worst = 0.0

    def add(self, tokens: list[int], start: int, expected: Any) -> None:
        got = logits_of(self.base, tokens, start)
        off = np.abs(got - expected) / np.abs(expected).max()
        self.num_tokens += len(expected)
        self.num_same += int((got.argmax(-1) == expected.argmax(-1)).sum())
        self.within.append(float((off < 0.01).mean()))
        self.worst = max(self.worst, float(off.max()))

    def __str__(self) -> str:
        same, within = self.num_same / self.num_tokens, np.mean(self.within)
        return (
            f"{self.kind}: {same:.4f} of {self.num_tokens} greedy tokens are float32's, "
            f"{within:.5f} of the logits within 1 % of its largest, the worst {self.worst:.4f}"
        )


@pytest.mark.qwen
def test_greedy_tokens_and_logits_are_those_of_float32(qwen: str) -> None:
    exact = load_base_model(qwen, cpu_weights="float32")
    found = [Agreement("bf16", qwen), Agreement("int8", qwen)]
    for tokens, start in islice(poems(exact), NUM_POEMS):
        expected = logits_of(exact, tokens, start)
        for agreement in found:
            agreement.add(tokens, start, expected)
    sys.stdout.write("".join(f"{agreement}\n" for agreement in found))
    assert all(of.num_same >= 0.98 * of.num_tokens for of in found)
    assert all(np.mean(of.within) >= 0.999 for of in found)
