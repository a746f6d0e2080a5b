"""Losses over the words that matter, beside those over all words."""

from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from tests.trainer.test_packed_rows import ROWS, VOCABULARY, adapted
from verse_trainer import host_head
from verse_trainer.blas import Floats
from verse_trainer.frozen_layers import narrow
from verse_trainer.host_head import host_losses, screen_of
from verse_trainer.objective import PackedLoss
from verse_trainer.vocabulary import Places, Room

NUM_WORDS, WIDTH, NUM_TOKENS = 5000, 64, 7


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_head, "LEAST_VOCABULARY", 1000)
    monkeypatch.setattr(host_head, "has_fast_integers", lambda: True)
    monkeypatch.setattr(host_head, "_PIECE", 700)
    monkeypatch.setattr(host_head, "_MOST_TOKENS", 3)
    monkeypatch.setattr(host_head, "_LEAST_CHANCE", 3e-4)


def head_of(kind: str) -> nn.Module:
    mx.random.seed(0)
    if kind == "with a bias":
        linear = nn.Linear(WIDTH, NUM_WORDS)
        linear.weight, linear.bias = linear.weight * 2, mx.random.normal((NUM_WORDS,))
        return linear
    embedding = nn.Embedding(NUM_WORDS, WIDTH)
    embedding.weight = mx.random.normal((NUM_WORDS, WIDTH)) * 0.3
    embedding.set_dtype({"float32": mx.float32, "bfloat16": mx.bfloat16}[kind])
    return embedding


def some_tokens() -> tuple[mx.array, mx.array]:
    hidden = mx.random.normal((NUM_TOKENS, WIDTH), key=mx.random.key(1))
    return hidden, mx.array([0, 699, 700, 1234, NUM_WORDS - 1, 3, 3])


def both(kind: str) -> tuple[Any, Any, Any, Any]:
    head, (hidden, targets) = head_of(kind), some_tokens()
    exact, directions = host_losses(head, hidden, targets, with_gradient=True)
    screen = screen_of(head)
    assert screen is not None
    found, gradient = host_losses(head, hidden, targets, with_gradient=True, screen=screen)
    alone, nothing = host_losses(head, hidden, targets, with_gradient=False, screen=screen)
    assert nothing is None
    assert mx.array_equal(alone, found)
    return np.array(exact), np.array(directions), np.array(found), np.array(gradient)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "with a bias"])
def test_words_that_do_not_matter_are_estimated_and_counted(kind: str) -> None:
    exact, directions, found, gradient = both(kind)
    assert not np.array_equal(found, exact)
    assert found == pytest.approx(exact, rel=2e-4)  # they have a tenth of the chances
    off = np.linalg.norm(gradient - directions, axis=1) / np.linalg.norm(directions, axis=1)
    assert off.max() < 0.03


def test_rows_of_words_that_do_not_matter_are_not_read() -> None:
    rows = np.array(cast(Any, head_of("float32")).weight)
    num_read: list[int] = []

    def read(part: Places, _room: Room) -> Floats:
        num_read.append(len(rows[part]))
        return rows[part]

    screen = host_head.VocabularyScreen(read, None, NUM_WORDS)
    assert sum(num_read) == NUM_WORDS
    num_read.clear()
    hidden, _ = some_tokens()
    screen.sums(np.array(hidden[:3]), with_gradient=True)
    assert 0 < sum(num_read) < 0.6 * NUM_WORDS


def test_where_all_words_matter_losses_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_head, "_LEAST_CHANCE", 0)
    exact, directions, found, gradient = both("bfloat16")
    assert found == pytest.approx(exact, rel=1e-6)
    assert gradient == pytest.approx(directions, rel=1e-4, abs=1e-5)


def test_the_same_tokens_lose_the_same_bits_every_time() -> None:
    _, _, found, gradient = both("bfloat16")
    _, _, again, same_gradient = both("bfloat16")
    assert np.array_equal(found, again)
    assert np.array_equal(gradient, same_gradient)


def test_what_is_not_finite_shows_in_the_loss_without_a_warning() -> None:
    head = head_of("float32")
    hidden = mx.array([[float("nan")] * WIDTH, [float("inf")] * WIDTH, [0.0] * WIDTH])
    losses, gradient = host_losses(
        head, hidden, mx.zeros(3, mx.int32), with_gradient=True, screen=screen_of(head)
    )
    assert gradient is not None
    assert np.isfinite(np.array(losses)).tolist() == [False, False, True]


def test_small_heads_packed_ones_and_other_processors_compute_all_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = head_of("float32")
    assert screen_of(head) is not None
    assert screen_of(cast(nn.Embedding, head).to_quantized(64, 8)) is None
    assert screen_of(nn.Embedding(999, WIDTH)) is None
    monkeypatch.setattr(host_head, "has_fast_integers", lambda: False)
    assert screen_of(head) is None


def test_packed_rows_are_screened(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted("qwen2", tied=True)
    exact = PackedLoss(model, ROWS, mx.float32)
    monkeypatch.setattr(host_head, "LEAST_VOCABULARY", 1 << 16)
    batch = exact.collate(ROWS)
    expected = np.array(exact(model, batch))
    monkeypatch.setattr(host_head, "LEAST_VOCABULARY", 1000)
    screened = PackedLoss(model, ROWS, mx.float32)
    found = np.array(screened(model, batch))
    assert found == pytest.approx(expected, rel=1e-4)
    assert not np.array_equal(found, expected)
    assert exact.host_bytes == 0
    assert screened.host_bytes > VOCABULARY * 32


def test_a_head_that_is_a_copy_of_bfloat16_is_kept_as_that() -> None:
    head: Any = head_of("float32")
    exact = head.weight
    narrow(head)
    assert head.weight is exact
    head.weight = exact.astype(mx.bfloat16).astype(mx.float32)
    expected = mx.array(head.weight)
    narrow(head)
    assert head.weight.dtype == mx.bfloat16
    assert mx.array_equal(head.weight.astype(mx.float32), expected)
