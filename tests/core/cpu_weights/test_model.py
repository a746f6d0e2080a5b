"""A whole model with packed weights: the same answers as mlx's, whoever else is in the batch."""

from pathlib import Path
from typing import Any, cast
from unittest import mock

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import llama, qwen2, qwen3
from mlx_lm.models.cache import BatchKVCache, make_prompt_cache

from verse.cpu_weights import decoder, packed_mlp, packing
from verse.cpu_weights.layers import CannotRepackError
from verse.cpu_weights.model_ends import EmbeddingFile
from verse.cpu_weights.packed import Activations, PackedKind, PackedWeight
from verse.cpu_weights.packing import (
    CpuWeightsError,
    check_weights,
    choose,
    fastest_threads,
    num_weights,
    pack_model,
    reason_against,
)
from verse.cpu_weights.threads import Threads

VOCAB = 300
SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "vocab_size": VOCAB,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
KINDS: list[PackedKind] = ["bf16", "int8"]


def model_of(module: Any, **changes: Any) -> Any:
    mx.random.seed(1)
    config = {**SIZES, "model_type": module.__name__.rpartition(".")[2], "head_dim": 32, **changes}
    return module.Model(module.ModelArgs.from_dict(config))


@pytest.fixture(scope="module")
def threads() -> Threads:
    return Threads(2)


def logits_of(model: Any, tokens: Any, cache: Any = None) -> Any:
    return np.array(model(mx.array(tokens), cache=cache)[:, :])


def worst(got: Any, expected: Any) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("module", [qwen2, qwen3, llama])
def test_it_gives_what_mlx_gives(
    module: Any, tied: bool, kind: PackedKind, threads: Threads, tmp_path: Path
) -> None:
    model = model_of(module, tie_word_embeddings=tied)
    prompt, rest = [[5, 9, 2, 77, 200, 31]], [[8], [250]]
    cache = make_prompt_cache(model)
    expected = [logits_of(model, tokens, cache) for tokens in (prompt, *([t] for t in rest))]
    assert reason_against(model) is None
    pack_model(model, tmp_path, kind, threads)
    assert not [name for name, _ in cast(Any, tree_flatten(model.parameters()))]
    cache = make_prompt_cache(model)
    got = [logits_of(model, tokens, cache) for tokens in (prompt, *([t] for t in rest))]
    for ours, theirs in zip(got, expected, strict=True):
        assert worst(ours, theirs) < 0.03


@pytest.mark.parametrize("tied", [True, False])
def test_large_numbers_behind_the_last_norm_harm_the_logits_less(
    tied: bool, threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def error() -> float:
        model = model_of(qwen2, tie_word_embeddings=tied)
        model.model.norm.weight[mx.array([3, 50, 90])] = 25
        hidden = model.model(mx.array([[1, 2, 3, 4, 5, 6, 7, 8]]))
        head = model.model.embed_tokens if tied else model.lm_head
        expected = np.array(hidden @ head.weight.T)
        pack_model(model, tmp_path, "int8", threads)
        head = model.model.embed_tokens.as_linear if tied else model.lm_head
        return float(np.linalg.norm(np.array(head(hidden)) - expected))

    scaled = error()
    monkeypatch.setattr(packing, "head_scales", mock.Mock(return_value=np.ones(128, np.float32)))
    assert scaled < 0.7 * error()


def test_a_head_behind_a_norm_of_zeros_is_packed(threads: Threads, tmp_path: Path) -> None:
    model = model_of(qwen2)
    model.model.norm.weight = mx.zeros(128)
    pack_model(model, tmp_path, "int8", threads)
    assert not logits_of(model, [[1, 2, 3]]).any()


def test_rows_are_the_same_alone_and_in_company(threads: Threads, tmp_path: Path) -> None:
    model = model_of(qwen2)
    pack_model(model, tmp_path, "bf16", threads)
    prompts = [[5, 9, 2, 77], [8, 250, 31, 4], [1, 2, 3, 299]]

    def written(rows: list[list[int]]) -> Any:
        cache = [BatchKVCache([0] * len(rows)) for _ in model.layers]
        inputs = [rows, *([[token]] * len(rows) for token in (11, 12, 13))]
        steps = [logits_of(model, tokens, cache)[:, -1] for tokens in inputs]
        return np.stack(steps, axis=1)

    together = written(prompts)
    for index, prompt in enumerate(prompts):
        assert np.array_equal(written([prompt])[0], together[index])


@pytest.mark.parametrize("num_masked", [0, 1, 4])
def test_a_next_token_looks_at_what_it_would_see_as_the_last_of_a_prompt(
    num_masked: int, threads: Threads
) -> None:
    random, num_rows, num_known = np.random.default_rng(2), 20, 70

    def normal(*shape: int) -> Any:
        return random.standard_normal(shape, np.float32)

    queries = normal(num_rows, 1, 4, 32)
    wide = normal(2, num_rows, 2, 99, 32)[:, :, :, 5 : 5 + num_known]
    known = wide[0], wide[1]
    new = normal(num_rows, 2, 1, 32), normal(num_rows, 2, 1, 32)
    added = None
    if num_masked:
        allowed = random.random((num_rows, num_masked, 1, num_known + 1)) < 0.8
        allowed[..., -1] = True
        added = decoder.added_by(allowed, 1, num_known + 1)
    of_all = decoder.attend(queries, known, new, 0.2, added, threads)
    whole = tuple(np.concatenate(pair, axis=2) for pair in zip(known, new, strict=True))
    at_once = decoder.attend(queries.copy(), None, (whole[0], whole[1]), 0.2, added, threads)
    np.testing.assert_allclose(of_all, at_once, rtol=1e-4, atol=1e-5)
    for row in (0, 13):
        one = slice(row, row + 1)
        known_one, new_one = ((keys[one], values[one]) for keys, values in (known, new))
        of_one = None if added is None else added[one]
        alone = decoder.attend(queries[one], known_one, new_one, 0.2, of_one, threads)
        assert alone.tobytes() == of_all[one].tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_prompt_goes_through_an_mlp_piece_by_piece_to_the_same_bits(
    kind: PackedKind, threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(qwen2)
    pack_model(model, tmp_path, kind, threads)
    prompts = [[token % VOCAB for token in range(first, first + 90)] for first in (0, 50)]
    most: list[int] = []
    whole = logits_of(model, prompts)
    pieces = PackedWeight.pieces

    def counted(self: PackedWeight, x: Activations, out: Any) -> Any:
        most.append(len(x.rows) if self.out_dims == SIZES["intermediate_size"] else 0)
        return pieces(self, x, out)

    monkeypatch.setattr(PackedWeight, "pieces", counted)
    monkeypatch.setattr(packed_mlp, "ROWS_AT_ONCE", 32)
    assert (logits_of(model, prompts) == whole).all()
    assert max(most) == 32


def test_rows_of_the_table_come_from_the_file(tmp_path: Path) -> None:
    table = mx.random.normal((VOCAB, 16)).astype(mx.bfloat16)
    file = tmp_path / "model.safetensors"
    mx.save_safetensors(str(file), {"model.embed_tokens.weight": table, "x": mx.zeros((3,))})
    embedding = nn.Embedding(VOCAB, 16)
    embedding.weight = table
    found = EmbeddingFile.find(tmp_path, embedding)
    assert found is not None
    ids = np.array([[7, 299, 7], [0, 1, 2]])
    expected = np.array(table.astype(mx.float32))[ids]
    assert np.array_equal(found(ids), expected)
    file.unlink()
    assert np.array_equal(found(ids), expected)
    assert EmbeddingFile.find(tmp_path, embedding) is None


def test_quantized_weights_are_repacked_or_named(threads: Threads, tmp_path: Path) -> None:
    model = model_of(qwen2)
    nn.quantize(model, group_size=64, bits=4)
    tokens = [[5, 9, 2, 77]]
    expected = logits_of(model, tokens)
    check_weights(model)
    pack_model(model, tmp_path, "bf16", threads)
    assert worst(logits_of(model, tokens), expected) < 0.03
    model = model_of(qwen2)
    nn.quantize(model, group_size=32, bits=4, mode="mxfp4")
    with pytest.raises(CannotRepackError, match="mxfp4"):
        check_weights(model)


def test_the_choice_goes_by_memory_and_says_why(tmp_path: Path) -> None:
    model = model_of(qwen2)
    assert choose(model, tmp_path, "float32", 1 << 34).words == "float32"
    assert "small model" in choose(model, tmp_path, "auto", 1 << 34).words
    assert choose(model, tmp_path, "int8", 1 << 34).kind == "int8"
    with pytest.raises(CpuWeightsError, match="take a smaller model"):
        choose(model, tmp_path, "bf16", num_weights(model))
    nn.quantize(model, group_size=32, bits=4, mode="mxfp4")
    with pytest.raises(CpuWeightsError, match="mxfp4 weights cannot be repacked"):
        choose(model, tmp_path, "bf16", 1 << 34)
    assert "mxfp4" in choose(model, tmp_path, "auto", 1 << 34).words


def test_fewer_threads_are_taken_only_where_they_are_clearly_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packing, "num_cores", lambda: 2)
    for seconds, expected in (([1.0, 0.6], 2), ([1.0, 1.3], 2), ([1.0, 1.8], 1)):
        of_steps = mock.Mock(side_effect=seconds)  # of 1 thread, then of 2
        monkeypatch.setattr(packing, "_seconds_of_step", of_steps)
        assert fastest_threads(model_of(qwen2)) == expected
