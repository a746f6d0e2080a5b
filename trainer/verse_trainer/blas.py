"""Products of numpy's arrays by the OpenBLAS that mlx uses, each in the thread that asks for it.

OpenBLAS shares one product out among all cores: its threads wait for each other, spinning, several
times in each product, and all but one spin while anything else is computed. Where there are several
products at a time, a core for each is faster, and what lies between them is shared out too.
"""

import ctypes
import os
import sysconfig
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from verse.cpu_weights.threads import Threads

Floats = np.ndarray[Any, np.dtype[np.float32]]

_ROW_MAJOR, _AS_IS, _TRANSPOSED = 101, 111, 112
"""cblas's names of orders."""


@contextmanager
def one_thread_each() -> Generator[None]:
    """Let every product be computed by the thread that asks for it, until the block ends."""
    library = _library()
    if library is None:
        yield
        return
    num_threads()  # is asked before there is but one
    before = library.openblas_get_num_threads()
    library.openblas_set_num_threads(1)
    try:
        yield
    finally:
        library.openblas_set_num_threads(before)


@cache
def num_threads() -> int:
    """That OpenBLAS was given at its start; 1 where there is none."""
    library = _library()
    return 1 if library is None else int(library.openblas_get_num_threads())


@cache
def threads() -> Threads:
    """As many; they sleep while there is nothing to do."""
    return Threads(num_threads())


def multiply(a: Floats, b: Floats, out: Floats) -> None:
    """out[:] = a @ b.T of (m, k) and (n, k); all contiguous."""
    library = _library()
    if library is None:
        np.matmul(a, b.T, out=out)
    else:
        _sgemm(library, a, b, out, _TRANSPOSED, 0.0)


def multiply_and_add(a: Floats, b: Floats, out: Floats) -> None:
    """out[:] += a @ b of (m, k) and (k, n); all contiguous."""
    library = _library()
    if library is None:
        out += a @ b
    else:
        _sgemm(library, a, b, out, _AS_IS, 1.0)


def _sgemm(
    library: ctypes.CDLL, a: Floats, b: Floats, out: Floats, order_of_b: int, kept: float
) -> None:
    (m, k), n = a.shape, out.shape[1]
    for array in (a, b, out):
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
    assert out.shape == (m, n)
    assert b.shape == ((n, k) if order_of_b == _TRANSPOSED else (k, n))
    one, beta = ctypes.c_float(1.0), ctypes.c_float(kept)
    sizes = (m, n, k, one, _place(a), k, _place(b), b.shape[1], beta, _place(out), n)
    library.cblas_sgemm(_ROW_MAJOR, _AS_IS, order_of_b, *sizes)


def _place(array: Floats) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@cache
def _library() -> ctypes.CDLL | None:
    """What `verse.openblas` has loaded."""
    file = Path(sysconfig.get_path("purelib"), "cmeel.prefix/lib/libopenblas.so.0")
    try:
        return ctypes.CDLL(str(file), mode=os.RTLD_NOLOAD)
    except (AttributeError, OSError):  # it is not there, or the system has no such flag
        return None
