"""The loss of answer tokens, against the plain way to compute it."""

from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import qwen2

from tests.trainer.runs import MODEL
from verse_trainer.encoding import EncodedRow
from verse_trainer.objective import TargetBatch, TokenLoss, collate


def row(ids: list[int], targets: list[int]) -> EncodedRow:
    return EncodedRow(
        token_ids=tuple(ids), targets=tuple(targets), end_token=ids[-1], place="train.jsonl:1"
    )


ROWS = [
    row(list(range(5, 30)), list(range(18, 25))),
    row(list(range(40, 53)), [11, 12]),
    row(list(range(60, 81)), [9, 10, 19, 20]),  # two answers, a question between them
]


def build(**overrides: Any) -> qwen2.Model:
    mx.random.seed(1)
    return qwen2.Model(qwen2.ModelArgs.from_dict({**MODEL, **overrides}))


class Capped(nn.Module):
    """Logits that the head alone does not give."""

    def __init__(self, inner: qwen2.Model) -> None:
        super().__init__()
        self.model, self.inner = inner.model, [inner]

    def __call__(self, inputs: mx.array) -> mx.array:
        return mx.tanh(self.inner[0](inputs) / 30) * 30


def plain(model: nn.Module, rows: list[EncodedRow]) -> list[float]:
    """One row at a time, one target at a time."""
    sums: list[float] = []
    for one in rows:
        logits = cast(Any, model)(mx.array([one.token_ids]))[0]
        log_probabilities = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        sums.append(
            -sum(log_probabilities[place - 1, one.token_ids[place]].item() for place in one.targets)
        )
    return sums


@pytest.mark.parametrize(
    ("model", "has_head"),
    [
        (build(), True),
        (build(tie_word_embeddings=False), True),
        (Capped(build()), False),
    ],
)
def test_it_is_the_sum_over_the_targets_of_each_row(model: nn.Module, has_head: bool) -> None:
    loss = TokenLoss(model)
    assert (loss._head is not None) == has_head  # pyright: ignore[reportPrivateUsage]
    losses = loss(model, collate(ROWS))
    assert losses.tolist() == pytest.approx(plain(model, ROWS), rel=1e-4)


def test_padding_and_company_change_nothing() -> None:
    model = build()
    loss = TokenLoss(model)
    together = loss(model, collate(ROWS)).tolist()
    alone = [loss(model, collate([one])).item() for one in ROWS]
    assert together == pytest.approx(alone, rel=1e-5)
    batch = collate(ROWS)
    other_padding = mx.where(batch.inputs == 0, 7, batch.inputs)
    changed = TargetBatch(other_padding, batch.targets, batch.is_target)
    assert loss(model, changed).tolist() == pytest.approx(together, rel=1e-5)


def test_only_targets_are_marked_and_no_padding_is() -> None:
    batch = collate(ROWS)
    assert batch.is_target.sum(axis=1).tolist() == [7, 2, 4]
    marked: Any = mx.where(batch.is_target == 1, batch.targets, -1).tolist()
    assert [[token for token in tokens if token >= 0] for tokens in marked] == [
        [one.token_ids[place] for place in one.targets] for one in ROWS
    ]


def test_a_batch_is_no_wider_than_its_longest_row_needs() -> None:
    assert collate(ROWS).inputs.shape == (3, 24)
    assert collate(ROWS[1:2]).inputs.shape == (1, 16)


def test_the_head_sees_nothing_before_the_first_answer() -> None:
    assert collate(ROWS[:1]).targets.shape == (1, 8)  # of 24; the answer begins at 17
