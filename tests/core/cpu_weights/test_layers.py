"""Layers that stand in for those of mlx."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from verse.cpu_weights.layers import (
    CannotRepackError,
    HostNorm,
    PackedLinear,
    check_can_be_repacked,
    products,
)
from verse.cpu_weights.model_ends import PackedHead
from verse.cpu_weights.packed import PackedKind
from verse.cpu_weights.threads import Threads


@pytest.fixture(scope="module")
def threads() -> Threads:
    return Threads(2)


@pytest.fixture
def linear() -> nn.Linear:
    mx.random.seed(3)
    linear = nn.Linear(128, 96)
    linear.bias = mx.random.normal((96,))
    return linear


def worst(got: Any, expected: Any) -> float:
    got, expected = np.array(got), np.array(expected)
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("kind", ["bf16", "int8"])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_a_linear_gives_what_it_gave(
    kind: PackedKind, dtype: mx.Dtype, linear: nn.Linear, threads: Threads
) -> None:
    x = mx.random.normal((2, 5, 128))
    expected = linear(x)
    linear.set_dtype(dtype)
    got = PackedLinear.of(linear, kind, threads)(x)
    assert got.dtype == mx.float32
    assert got.shape == (2, 5, 96)
    assert worst(got, expected) < 0.015


@pytest.mark.parametrize("kind", ["bf16", "int8"])
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_linear_is_repacked(
    kind: PackedKind, group_size: int, bits: int, linear: nn.Linear, threads: Threads
) -> None:
    quantized = nn.QuantizedLinear.from_linear(linear, group_size, bits)
    x = mx.random.normal((3, 128))
    got = PackedLinear.of(quantized, kind, threads)(x)
    assert worst(got, quantized(x)) < 0.015


def test_a_mode_that_cannot_be_repacked_is_named(linear: nn.Linear) -> None:
    check_can_be_repacked(linear)
    with pytest.raises(CannotRepackError, match="weights of 2 bits"):
        check_can_be_repacked(nn.QuantizedLinear.from_linear(linear, 64, 2))
    with pytest.raises(CannotRepackError, match="mxfp4 weights"):
        check_can_be_repacked(nn.QuantizedLinear.from_linear(linear, 32, 4, mode="mxfp4"))
    with pytest.raises(CannotRepackError, match="nvfp4 weights"):
        check_can_be_repacked(nn.QuantizedLinear.from_linear(linear, 16, 4, mode="nvfp4"))


def test_a_norm_gives_what_it_gave() -> None:
    norm = nn.RMSNorm(128, eps=1e-6)
    norm.weight = mx.random.normal((128,))
    x = mx.random.normal((2, 3, 128)) * 50
    assert worst(HostNorm(norm)(x), norm(x)) < 1e-5


def test_the_largest_logits_of_8_bits_are_as_exact_as_the_table(threads: Threads) -> None:
    random = np.random.default_rng(2)
    table = random.standard_normal((500, 64), dtype=np.float32)
    table[[8, 91, 401]] = table[[7, 90, 400]] * 0.999
    hidden = random.standard_normal((3, 1, 64), dtype=np.float32) + table[[7, 90, 400], None]
    linear = nn.Linear(64, 500, bias=False)
    linear.weight = mx.array(table)
    packed = PackedLinear.of(linear, "int8", threads)
    expected = hidden @ table.T
    rounded = PackedHead(packed).logits(hidden)
    head = PackedHead(packed, lambda ids: table[ids])
    exact = head.logits(hidden).copy()
    near = expected >= expected.max(axis=-1, keepdims=True) * 0.96
    assert near.sum() >= 6
    assert np.abs(rounded - expected)[near].max() > 1e-3
    assert np.abs(exact - expected)[near & (rounded != exact)].max() < 1e-4
    assert (exact.argmax(-1) == expected.argmax(-1)).all()
    assert np.array_equal(exact[1:2], head.logits(hidden[1:2]))


def test_the_logits_of_a_batch_lie_in_memory_that_is_used_again(threads: Threads) -> None:
    head = PackedHead(PackedLinear.of(nn.Linear(128, 96, bias=False), "bf16", threads))
    random = np.random.default_rng(5)
    hidden = random.standard_normal((80, 1, 128), np.float32)
    first = head(hidden[:8])
    kept, of_host = first[:, -1], first.on_host(([*range(8)], -1))
    expected = of_host.copy()
    assert np.array_equal(np.array(kept), expected)
    again = head(hidden[:8]).on_host(([*reversed(range(8))], -1))
    assert np.shares_memory(of_host, again)
    assert np.array_equal(again, expected[::-1])
    assert np.array_equal(np.array(kept), expected)
    large = head(hidden).on_host((slice(None), -1))  # more rows than a batch has: nobody keeps it
    assert not np.shares_memory(large, head(hidden).on_host((slice(None), -1)))


def test_little_work_is_done_by_whoever_asks_for_it(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: list[int] = []
    run = threads.run

    def noted(pieces: Any) -> None:
        shared.append(len(pieces))
        run(pieces)

    layer = PackedLinear.of(nn.Linear(512, 768, bias=False), "bf16", threads)
    rows = np.random.default_rng(4).standard_normal((8, 1, 512), np.float32)
    monkeypatch.setattr(threads, "run", noted)
    alone = products([layer], rows[:1])[0]
    assert not shared
    together = products([layer], rows)[0]
    assert shared[0] > 1
    assert np.array_equal(alone[0], together[0])
