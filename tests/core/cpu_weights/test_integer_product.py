"""Products of 8 bits: exact sums, by whichever library makes them."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from verse.cpu_weights import integer_product
from verse.cpu_weights.integer_product import (
    MIDDLE,
    NumkongProduct,
    OnnxProduct,
    fastest_product,
    has_fast_integers,
)

KINDS = [NumkongProduct, OnnxProduct]
IN, OUT = 96, 40


def operands(rows: int) -> tuple[NDArray[np.uint8], NDArray[np.int8], NDArray[np.float32]]:
    random = np.random.default_rng(3)
    x = random.integers(0, 256, (rows, IN)).astype(np.uint8)
    weight = random.integers(-127, 128, (OUT, IN)).astype(np.int8)
    return x, weight, random.random(OUT, dtype=np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_exact_and_rows_alone_have_the_same_bits(
    kind: type[NumkongProduct] | type[OnnxProduct],
) -> None:
    x, weight, steps = operands(11)
    product = kind(weight, steps)
    sums = (x.astype(np.int64) - MIDDLE) @ weight.astype(np.int64).T
    together = product(x)
    assert np.array_equal(together, sums.astype(np.float32) * steps)
    for row in range(len(x)):
        assert np.array_equal(product(x[row : row + 1])[0], together[row])
    assert product.num_bytes >= weight.nbytes


def test_without_onnxruntime_or_with_sums_that_overflow_numkong_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Saturated(OnnxProduct):
        def __call__(self, x: NDArray[np.uint8]) -> NDArray[np.float32]:
            return np.clip(super().__call__(x), -(2**15), 2**15)

    untouched = fastest_product.__wrapped__
    monkeypatch.setattr(integer_product, "OnnxProduct", Saturated)
    assert untouched() is NumkongProduct
    monkeypatch.setattr(integer_product, "_onnxruntime", lambda: None)
    assert untouched() is NumkongProduct


def test_a_version_of_onnxruntime_that_takes_no_weight_so_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Refused(OnnxProduct):
        def __init__(self, *_: object) -> None:
            raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : no such file")

    monkeypatch.setattr(integer_product, "OnnxProduct", Refused)
    assert fastest_product.__wrapped__() is NumkongProduct
    assert "onnxruntime cannot be used here" in caplog.text


def test_the_fastest_is_the_one_for_what_a_poem_alone_has(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, ...]] = []

    class Noted(OnnxProduct):
        def __call__(self, x: NDArray[np.uint8]) -> NDArray[np.float32]:
            tried.append(x.shape)
            return super().__call__(x)

    monkeypatch.setattr(integer_product, "OnnxProduct", Noted)
    fastest_product.__wrapped__()
    assert {rows for rows, _ in tried} == {2}


@pytest.mark.parametrize(
    ("of_numkong", "expected"), [(0.6, "OnnxProduct"), (0.4, "NumkongProduct")]
)
def test_numkong_is_taken_only_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, of_numkong: float, expected: str
) -> None:
    def seconds(*_kinds: object) -> list[float]:
        return [1.0, of_numkong]

    monkeypatch.setattr(integer_product, "_seconds", seconds)
    assert fastest_product.__wrapped__().__name__ == expected


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the system lists no instructions")
def test_integers_are_fast_only_where_the_processor_has_instructions_for_them() -> None:
    listed = set(Path("/proc/cpuinfo").read_text("utf-8").split())
    assert has_fast_integers() <= bool(listed & {"avx512_vnni", "avx_vnni"})


def test_without_numkong_integers_are_not_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_product, "_numkong", None)
    assert not has_fast_integers.__wrapped__()


def packed_before_others(num_others: int) -> tuple[OnnxProduct, bool]:
    """A product that others were packed after, and whether it is what it was."""
    x, weight, steps = operands(3)
    product = OnnxProduct(weight, steps)
    before = product(x)
    for _ in range(num_others):
        OnnxProduct(-weight, steps)
    return product, np.array_equal(product(x), before)


def test_weights_are_packed_through_one_memory() -> None:
    (first, is_same), (second, _) = (packed_before_others(3) for _ in range(2))
    places = {product._given.data_ptr() for product in (first, second)}  # pyright: ignore[reportPrivateUsage]
    assert is_same
    assert len(places) == (1 if integer_product._is_packed() else 2)  # pyright: ignore[reportPrivateUsage]


def test_a_weight_that_a_session_reads_at_each_product_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(integer_product, "_is_packed", lambda: False)
    (first, is_same), (second, _) = (packed_before_others(3) for _ in range(2))
    assert is_same
    assert first._given.data_ptr() != second._given.data_ptr()  # pyright: ignore[reportPrivateUsage]
    _, weight, _ = operands(3)
    assert np.array_equal(first._given.numpy(), weight.T)  # pyright: ignore[reportPrivateUsage]
