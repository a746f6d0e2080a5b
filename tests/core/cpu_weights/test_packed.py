"""Weights packed for this processor: the same product, the same bits in any company."""

from threading import Event

import numpy as np
import pytest
from numpy.typing import NDArray

from verse.cpu_weights.packed import Activations, PackedKind, PackedWeight, num_block_rows
from verse.cpu_weights.threads import Threads

KINDS: list[PackedKind] = ["bf16", "int8"]
IN, OUT = 192, 200


@pytest.fixture(scope="module")
def threads() -> Threads:
    return Threads(2)


def numbers(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_close_to_that_of_float32(kind: PackedKind, threads: Threads) -> None:
    weight, x = numbers(OUT, IN), numbers(9, IN, seed=1)
    packed = PackedWeight.pack(kind, weight.shape, [weight[:70], weight[70:]], threads)
    expected = x @ weight.T
    got = packed.multiplied(x, threads)
    assert np.abs(got - expected).max() < 0.01 * np.abs(expected).max()
    assert packed.num_bytes < weight.nbytes * (0.6 if kind == "bf16" else 0.4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_same_bits_alone_and_in_any_company(
    kind: PackedKind, threads: Threads
) -> None:
    weight, x = numbers(OUT, IN), numbers(20, IN, seed=1)
    packed = PackedWeight.pack(kind, weight.shape, [weight], threads)
    together = packed.multiplied(x, threads)
    for first in range(20):
        for last in range(first + 1, 21):
            assert np.array_equal(packed.multiplied(x[first:last], threads), together[first:last])


@pytest.mark.parametrize("kind", KINDS)
def test_outliers_zeros_and_infinities_stay_in_their_row(
    kind: PackedKind, threads: Threads
) -> None:
    weight, x = numbers(OUT, IN), numbers(4, IN, seed=1)
    x[0, 3], x[1], x[2, 5] = 3e4, 0, np.inf
    packed = PackedWeight.pack(kind, weight.shape, [weight], threads)
    with np.errstate(all="ignore"):
        got = packed.multiplied(x, threads)
    expected = x[0] @ weight.T
    assert np.abs(got[0] - expected).max() < 0.01 * np.abs(expected).max()
    assert not got[1].any()
    assert np.array_equal(got[3], packed.multiplied(x[3:], threads)[0])


def test_rows_that_do_not_come_are_missed(threads: Threads) -> None:
    with pytest.raises(ValueError, match="end at row 64 of 200"):
        PackedWeight.pack("bf16", (OUT, IN), [numbers(64, IN)], threads)


def test_every_piece_is_done_once_and_errors_arrive(threads: Threads) -> None:
    done: list[int] = []
    threads.run([lambda i=i: done.append(i) for i in range(100)])
    assert sorted(done) == list(range(100))

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        threads.run([lambda: None, fail, lambda: None])


def test_a_slow_piece_holds_up_no_other(threads: Threads) -> None:
    done: list[int] = []
    others = Event()

    def piece(index: int) -> None:
        if index == 0:
            assert others.wait(120)
        done.append(index)
        if len(done) == 19:
            others.set()

    threads.run([lambda i=i: piece(i) for i in range(20)])
    assert len(done) == 20
    assert done[-1] == 0


def test_rows_that_threads_share_are_halved_as_each_is_alone(threads: Threads) -> None:
    x = numbers(40, 1152)
    halves, steps = Activations(x, threads).int8
    for row in range(40):
        of_row, step = Activations(x[row : row + 1], threads).int8
        assert np.array_equal(halves[:, row], of_row[:, 0])
        assert steps[row] == step[0]


@pytest.mark.parametrize("shape", [(4864, 896), (896, 4864), (896, 896), (18944, 3584)])
@pytest.mark.parametrize("num_threads", [1, 2, 3, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_no_thread_waits_for_another_to_do_one_piece_more(
    kind: PackedKind, num_threads: int, shape: tuple[int, int]
) -> None:
    rows = num_block_rows(kind, shape, num_threads)
    num_turns = -(-shape[0] // (rows * num_threads))
    assert rows % 16 == 0
    assert num_turns * rows * num_threads <= 1.04 * shape[0]


def test_a_small_matrix_is_not_worth_sharing() -> None:
    assert num_block_rows("bf16", (128, 896), 2) == 128
