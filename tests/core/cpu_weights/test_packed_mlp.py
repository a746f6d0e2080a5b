"""An MLP in one piece for each thread: the same as its layers, the same bits in any company."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from verse.cpu_weights import packed_mlp
from verse.cpu_weights.integer_product import NumkongProduct
from verse.cpu_weights.packed import Activations, quantized
from verse.cpu_weights.packed_mlp import MATRICES, MlpNumbers, PackedMlp, WeightOfMlp, can_pack
from verse.cpu_weights.threads import Threads

DIMS, WIDTH, ROWS = 256, 640, 40
EPS = np.float32(1e-6)
Numbers = NDArray[np.float32]

pytestmark = pytest.mark.skipif(
    not can_pack(DIMS, WIDTH), reason="here the products of 8 bits are numkong's"
)


def numbers(*shape: int, seed: int = 0) -> Numbers:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.fixture(scope="module")
def layers() -> tuple[Numbers, Numbers, Numbers, Numbers]:
    weights = numbers(WIDTH, DIMS), numbers(WIDTH, DIMS, seed=1), numbers(DIMS, WIDTH, seed=2)
    gate, up, down = (weight * np.float32(0.05) for weight in weights)
    return gate, up, down, numbers(DIMS, seed=3)


@pytest.fixture(scope="module", params=[1, 2, 3])
def mlp(request: pytest.FixtureRequest, layers: Any) -> PackedMlp:
    *weights, norm = layers
    rows = MlpNumbers(DIMS, WIDTH, request.param)
    for name, weight in zip(MATRICES, weights, strict=True):
        for first in range(0, len(weight), 100):
            rows.take(name, first, quantized(weight[first : first + 100]))
    packed = PackedMlp(rows, (norm, EPS), Threads(request.param))
    for part in (*rows.wide, *rows.narrow):
        part[:] = 0  # it is another layer's turn
    return packed


def expected(x: Numbers, layers: Any) -> Any:
    gate, up, down, norm = (part.astype(np.float64) for part in layers)
    normed = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + EPS) * norm
    gated = normed @ gate.T
    return (gated / (1 + np.exp(-gated)) * (normed @ up.T)) @ down.T


def test_it_gives_what_its_layers_give(mlp: PackedMlp, layers: Any) -> None:
    x = numbers(ROWS, DIMS, seed=4) * 3
    want = expected(x, layers)
    assert np.abs(mlp(x) - want).max() < 0.015 * np.abs(want).max()


def test_a_row_has_the_same_bits_alone_in_company_and_in_pieces(
    mlp: PackedMlp, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = numbers(ROWS, DIMS, seed=4)
    together = mlp(x)
    for first in range(0, ROWS, 3):
        for count in (1, 2, 5, 16):
            assert np.array_equal(mlp(x[first : first + count]), together[first : first + count])
    monkeypatch.setattr(packed_mlp, "ROWS_AT_ONCE", 7)
    assert np.array_equal(mlp(x), together)


def test_in_two_halves_it_gives_the_same_bits_and_what_lies_between(
    mlp: PackedMlp, layers: Any
) -> None:
    x = numbers(ROWS, DIMS, seed=4)
    y, between = mlp.down(*mlp.gate_and_up(x))
    assert np.array_equal(y, mlp(x))
    want = between @ layers[2].T
    assert np.abs(y - want).max() < 0.015 * np.abs(want).max()


def test_what_is_added_between_the_halves_counts(mlp: PackedMlp) -> None:
    x = numbers(ROWS, DIMS, seed=4)
    gated, upper = mlp.gate_and_up(x)
    upper[3] *= 2
    y, whole = mlp.down(gated, upper)[0], mlp(x)
    assert np.allclose(y[3], 2 * whole[3], rtol=1e-3, atol=1e-3)
    assert np.array_equal(np.delete(y, 3, axis=0), np.delete(whole, 3, axis=0))


def test_zeros_outliers_and_infinities_stay_in_their_row(mlp: PackedMlp, layers: Any) -> None:
    x = numbers(4, DIMS, seed=4)
    x[0, 3], x[1], x[2, 5] = 3e4, 0, np.inf
    got, want = mlp(x), expected(x[:1], layers)
    assert np.abs(got[0] - want).max() < 0.015 * np.abs(want).max()
    assert not got[1].any()
    assert np.array_equal(got[3], mlp(x[3:])[0])


@pytest.mark.parametrize("num_threads", [1, 2, 3, 8])
@pytest.mark.parametrize("width", [640, 4864, 18944])
def test_shares_are_whole_blocks_and_differ_by_one_at_most(num_threads: int, width: int) -> None:
    spans = packed_mlp.spans(width, num_threads)
    sizes = [(span.stop - span.start) // 128 for span in spans]
    assert sum(sizes) * 128 == width
    assert [span.stop for span in spans[:-1]] == [span.start for span in spans[1:]]
    assert min(sizes) >= 2
    assert max(sizes) - min(sizes) <= 1


def test_rows_of_one_block_and_other_products_are_packed_layer_by_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not can_pack(128, WIDTH)
    assert not can_pack(DIMS, 128)
    assert not can_pack(DIMS + 8, WIDTH)
    monkeypatch.setattr(packed_mlp, "fastest_product", lambda: NumkongProduct)
    assert not packed_mlp._keeps_bits.__wrapped__()  # pyright: ignore[reportPrivateUsage]


def test_a_part_is_not_multiplied_by_itself() -> None:
    weight = WeightOfMlp((WIDTH, DIMS))
    assert weight.num_bytes == WIDTH * (DIMS + 4)
    rows = numbers(1, DIMS)
    with pytest.raises(TypeError):
        weight.pieces(Activations(rows, Threads(1)), rows)
