"""Products in the thread that asks for them, with OpenBLAS and where there is none."""

import numpy as np
import pytest

from verse_trainer import blas


@pytest.mark.parametrize("is_there", [True, False])
def test_products_are_numpys(is_there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_there:
        monkeypatch.setattr(blas, "_library", lambda: None)
    draw = np.random.default_rng(0)
    a, b = (draw.normal(size=size).astype(np.float32) for size in ((5, 7), (3, 7)))
    out = np.full((5, 3), np.nan, np.float32)
    with blas.one_thread_each():
        blas.multiply(a, b, out)
        np.testing.assert_allclose(out, a @ b.T, rtol=1e-5)
        total = np.ones((5, 7), np.float32)
        blas.multiply_and_add(out, b, total)
    np.testing.assert_allclose(total, 1 + out @ b, rtol=1e-5)


def test_arrays_that_do_not_fit_are_not_multiplied() -> None:
    a, b = np.ones((5, 7), np.float32), np.ones((3, 6), np.float32)
    with pytest.raises((AssertionError, ValueError)):
        blas.multiply(a, b, np.empty((5, 3), np.float32))


def test_openblas_has_all_cores_again_at_the_end() -> None:
    library = blas._library()  # pyright: ignore[reportPrivateUsage]
    if library is None:
        pytest.skip("needs OpenBLAS")
    before = library.openblas_get_num_threads()

    def fail() -> None:
        with blas.one_thread_each():
            assert library.openblas_get_num_threads() == 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert library.openblas_get_num_threads() == before
