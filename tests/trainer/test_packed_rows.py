"""Packed rows and the vocabulary in pieces, against a model's own forward and plain arithmetic."""

import random
import tracemalloc
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import llama, qwen2, qwen3
from mlx_lm.tuner.utils import linear_to_lora_layers

from verse_trainer import host_head, memory, vocabulary
from verse_trainer.decoder import Decoder, is_known
from verse_trainer.encoding import EncodedRow
from verse_trainer.host_head import host_losses
from verse_trainer.packing import EXACT, ROUNDED, Multiples, common_prefix, pack
from verse_trainer.vocabulary import token_losses

VOCABULARY, PREFIX = 3000, 12
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "vocab_size": VOCABULARY,
    "rope_theta": 1e4,
    "max_position_embeddings": 256,
    "head_dim": 8,
}
KINDS: dict[str, Any] = {"qwen2": qwen2, "qwen3": qwen3, "llama": llama}


def some_rows() -> list[EncodedRow]:
    draw = random.Random(1)
    shared = [draw.randrange(VOCABULARY) for _ in range(PREFIX)]
    rows: list[EncodedRow] = []
    for length in (9, 15, 7):
        ids = (*shared, *(draw.randrange(VOCABULARY) for _ in range(length)))
        targets = tuple(range(PREFIX + 1, len(ids)))
        rows.append(EncodedRow(token_ids=ids, targets=targets, end_token=1, place="here"))
    return rows


ROWS = some_rows()


def adapted(kind: str, *, tied: bool) -> nn.Module:
    mx.random.seed(3)
    module = KINDS[kind]
    config = {**SIZES, "model_type": kind, "tie_word_embeddings": tied}
    model = module.Model(module.ModelArgs.from_dict(config))
    model.freeze()
    linear_to_lora_layers(model, 2, {"rank": 4, "scale": 2.0, "dropout": 0.0})
    for name, array in cast(Any, tree_flatten(model.trainable_parameters())):
        model.load_weights([(name, mx.random.normal(array.shape) * 0.1)], strict=False)
    return model


def packed(
    model: nn.Module, multiples: Multiples, *, checkpoint: bool = False, asked: bool = True
) -> mx.array:
    decoder = Decoder(model)
    prefix = common_prefix(ROWS)
    batch = pack(ROWS, prefix, multiples)
    states = decoder.embed(batch.inputs, mx.float32)
    states = decoder.run(
        states,
        batch.layout,
        prefix,
        decoder.blocks,
        checkpoint=checkpoint,
        places=batch.places if asked else None,
    )
    states = states if asked else states[batch.places]
    losses = token_losses(decoder.head, decoder.norm(states), batch.targets)
    return mx.stack([(losses * (batch.owners == row)).sum() for row in range(len(ROWS))])


def plain(model: nn.Module) -> mx.array:
    sums: list[mx.array] = []
    for row in ROWS:
        logits = cast(Any, model)(mx.array([row.token_ids[:-1]]))[0]
        losses = nn.losses.cross_entropy(logits, mx.array(row.token_ids[1:]))
        sums.append(losses[mx.array(row.targets) - 1].sum())
    return mx.stack(sums)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("multiples", "checkpoint"), [(EXACT, False), (ROUNDED, False), (EXACT, True)]
)
def test_losses_and_gradients_are_those_of_each_row_alone(
    kind: str, multiples: Multiples, checkpoint: bool
) -> None:
    model = adapted(kind, tied=kind != "qwen3")
    assert is_known(model)
    weights = mx.array([1.0, 2.0, 0.5])  # as where rows count differently

    def gradients(losses: Any) -> tuple[float, dict[str, mx.array]]:
        def weighted() -> mx.array:
            return (losses() * weights).sum()

        loss, tree = nn.value_and_grad(model, weighted)()
        return loss.item(), dict(cast(Any, tree_flatten(tree)))

    expected_loss, expected = gradients(lambda: plain(model))
    loss, found = gradients(lambda: packed(model, multiples, checkpoint=checkpoint))
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        largest: Any = mx.abs(gradient).max().item()
        error: Any = mx.abs(gradient - found[name]).max().item()
        assert error < 1e-5 * largest + 1e-9


@pytest.mark.parametrize("checkpoint", [False, True])
def test_what_nothing_reads_is_not_computed_and_changes_nothing(checkpoint: bool) -> None:
    model = adapted("qwen2", tied=True)
    last: Any = Decoder(model).blocks[-1]
    read: list[int] = []

    class Counted(nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def __call__(self, x: mx.array) -> mx.array:
            read.append(x.shape[0])
            return self.inner(x)

    expected = packed(model, EXACT, checkpoint=checkpoint, asked=False)
    last.mlp.down_proj = Counted(last.mlp.down_proj)
    found = packed(model, EXACT, checkpoint=checkpoint)
    assert read == [sum(len(row.targets) for row in ROWS)]
    assert mx.allclose(found, expected, rtol=1e-6)


def test_no_place_is_spent_on_padding() -> None:
    batch = pack(ROWS, common_prefix(ROWS), EXACT)
    assert batch.inputs.shape == (PREFIX + sum(row.length - PREFIX for row in ROWS),)
    assert batch.targets.shape == (sum(len(row.targets) for row in ROWS),)


def test_a_beginning_that_is_learned_or_short_is_not_shared() -> None:
    learned = [EncodedRow(token_ids=r.token_ids, targets=(3,), end_token=1, place="") for r in ROWS]
    assert common_prefix(learned) == 0
    assert common_prefix(ROWS) == PREFIX
    assert common_prefix(ROWS[:1]) == PREFIX  # the last token before an answer is read for itself
    other = EncodedRow(token_ids=tuple(range(20)), targets=(19,), end_token=1, place="")
    assert common_prefix([*ROWS, other]) == 0


def test_a_model_with_windows_or_lengths_in_its_positions_is_not_known() -> None:
    model = adapted("qwen2", tied=True)
    attention: Any = cast(Any, model).layers[0].self_attn
    attention.rope = nn.ALiBi()
    assert not is_known(model)
    assert not is_known(nn.Linear(2, 2))


def heads() -> list[nn.Module]:
    mx.random.seed(0)
    linear = nn.Linear(64, VOCABULARY, bias=True)
    embedding = nn.Embedding(VOCABULARY, 64)
    narrow = nn.Embedding(VOCABULARY, 64)
    narrow.set_dtype(mx.bfloat16)
    half = nn.Linear(64, VOCABULARY, bias=False)
    half.set_dtype(mx.float16)
    return [
        linear,
        embedding,
        narrow,
        half,
        embedding.to_quantized(64, 8),
        linear.to_quantized(64, 4),
    ]


@pytest.mark.parametrize("number", range(6))
def test_the_vocabulary_in_pieces_gives_the_whole_ones_losses_and_gradients(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "_LEAST_PIECE", 700)
    monkeypatch.setattr(vocabulary, "_PIECE_LOGITS", 1)
    monkeypatch.setattr(host_head, "LEAST_PIECE", 200)
    monkeypatch.setattr(host_head, "PIECE_LOGITS", 1)
    head: Any = heads()[number]
    hidden = mx.random.normal((5, 64)) * 3
    targets = mx.array([0, VOCABULARY - 1, 699, 700, 1234])
    logits_of = head.as_linear if hasattr(head, "as_linear") else head

    def whole(states: mx.array) -> mx.array:
        return nn.losses.cross_entropy(logits_of(states).astype(mx.float32), targets)

    expected, (gradient,) = mx.vjp(whole, [hidden], [mx.ones(5)])
    losses, directions = host_losses(head, hidden, targets, with_gradient=True)
    assert directions is not None
    assert mx.allclose(losses, expected[0], rtol=1e-5, atol=1e-5)
    assert mx.allclose(directions, gradient, rtol=1e-4, atol=1e-5)

    def in_pieces(states: mx.array) -> mx.array:
        return token_losses(head, states, targets)

    in_graph, (its_gradient,) = mx.vjp(in_pieces, [hidden], [mx.ones(5)])
    assert mx.allclose(in_graph[0], expected[0], rtol=1e-5, atol=1e-5)
    assert mx.allclose(its_gradient, gradient, rtol=1e-4, atol=1e-5)
    alone, nothing = host_losses(head, hidden, targets, with_gradient=False)
    assert nothing is None
    assert mx.array_equal(alone, losses)


def test_no_array_of_tokens_by_vocabulary_is_ever_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "_LEAST_PIECE", 100)
    monkeypatch.setattr(vocabulary, "_PIECE_LOGITS", 256 * 100)
    monkeypatch.setattr(host_head, "PIECE_LOGITS", 256 * 512)
    tracemalloc.start()
    head = nn.Embedding(40_000, 8)
    hidden, targets = mx.random.normal((256, 8)), mx.zeros(256, mx.int32)
    mx.eval(head.parameters(), hidden, targets)

    def summed(states: mx.array) -> mx.array:
        return token_losses(head, states, targets).sum()

    for run in (
        lambda: host_losses(head, hidden, targets, with_gradient=True),
        lambda: mx.grad(summed)(hidden),
    ):
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(run())
        assert mx.get_peak_memory() - before < 256 * 40_000 * 4 / 10
    assert tracemalloc.get_traced_memory()[1] < 256 * 40_000 * 4 / 3  # numpy's is counted apart
    tracemalloc.stop()


def test_many_small_chances_are_not_lost_in_the_sum() -> None:
    """A sum in order, as mlx makes it on a CPU, loses a ten-thousandth over a large vocabulary."""
    head = nn.Embedding(150_000, 8)
    head.weight = mx.random.normal((150_000, 8), key=mx.random.key(0))
    hidden = mx.random.normal((4, 8), key=mx.random.key(1)) * 2
    losses, _ = host_losses(head, hidden, mx.zeros(4, mx.int32), with_gradient=False)
    logits = np.array(hidden).astype(np.float64) @ np.array(head.weight).astype(np.float64).T
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[:, 0]
    assert np.array(losses) == pytest.approx(expected, rel=2e-6)


def test_a_loss_that_is_not_finite_is_seen_by_its_number_and_no_warning() -> None:
    head = nn.Embedding(3000, 8)
    hidden = mx.array([[float("nan")] * 8, [1e38] * 8, [0.0] * 8])
    losses, directions = host_losses(head, hidden, mx.zeros(3, mx.int32), with_gradient=True)
    assert directions is not None
    assert np.isfinite(np.array(losses)).tolist() == [False, False, True]


def test_the_memory_estimate_counts_pieces_as_they_are() -> None:
    names = ("_PIECE_LOGITS", "_LEAST_PIECE", "_LARGEST_PIECE")
    assert [getattr(memory, name) for name in names] == [
        getattr(vocabulary, name) for name in names
    ]
