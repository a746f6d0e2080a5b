"""Products of integers of 8 bits, by the library that is fastest at them here.

onnxruntime's kernels reach the peak of VNNI, which on a processor without AMX is twice what numkong
reaches. On processors before VNNI its sums of two products may not fit into 16 bits, so before it
is used it must give the exact sums, of the largest numbers there are, here.
"""

import ctypes
import functools
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

try:
    import numkong as _numkong
except ImportError:  # `packing` says so before anything is packed
    _numkong = None

numkong = cast(Any, _numkong)
"""Its types know neither `dots_pack` nor what a Tensor may be given to."""

MIDDLE = 128
"""Activations are kept as this more than they are: MLAS is fast with unsigned ones only."""

_IR_VERSION = 8
_OPSET = 17
_MICROSOFT = "com.microsoft"
_TYPES: dict[Any, int] = {
    np.dtype(np.float32): 1,
    np.dtype(np.uint8): 2,
    np.dtype(np.int8): 3,
}
_FLOAT, _UINT8 = 1, 2

_TRIED = (512, 896)
_TRIED_ROWS = 32
_TRIES = 3
_WITH_VNNI = ("icelake", "alder", "sierra")
"""numkong's names of the first processors with it."""


class IntegerProduct(Protocol):
    """Weights in 8 bits, packed."""

    num_bytes: int

    def __call__(self, x: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(rows, in_dims), `MIDDLE` more than they are -> (rows, out_dims), in steps of each row.

        The sums are exact, then rounded to float32 and multiplied by the step of their column.
        """
        ...


class NumkongProduct:
    """By numkong."""

    def __init__(self, weight: NDArray[np.int8], steps: NDArray[np.float32]) -> None:
        """Pack (out_dims, in_dims); `steps` are (out_dims,)."""
        self._packed = numkong.dots_pack(weight, dtype="int8")
        self._steps = steps
        self.num_bytes = int(self._packed.nbytes) + steps.nbytes

    def __call__(self, x: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `IntegerProduct`."""
        sums = np.asarray(numkong.dots_packed((x ^ np.uint8(MIDDLE)).view(np.int8), self._packed))
        out = sums.astype(np.float32)
        out *= self._steps
        return out


class OnnxProduct:
    """By onnxruntime, one thread: whoever calls it has threads of his own."""

    def __init__(self, weight: NDArray[np.int8], steps: NDArray[np.float32]) -> None:
        """Pack (out_dims, in_dims); `steps` are (out_dims,)."""
        runtime = _onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # What a product needs is little and soon gone; an arena for each would keep all of it.
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        model = onnx_model(weight, steps)
        session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        # Python's wrapper keeps the model's bytes, to start again on another processor.
        self._run: Callable[[list[str], dict[str, Any], None], list[Any]] = session._sess.run
        self.num_bytes = weight.nbytes + steps.nbytes

    def __call__(self, x: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `IntegerProduct`."""
        return self._run(["y"], {"x": x}, None)[0]


def give_back_memory() -> None:
    """Let the system have what was freed while weights were packed; glibc keeps it otherwise."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@functools.cache
def _onnxruntime() -> Any:
    """The package, which takes a tenth of a second; None where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    return cast(Any, onnxruntime)


@functools.cache
def fastest_product() -> type[NumkongProduct] | type[OnnxProduct]:
    """The one to take on this processor; asked once, it takes some milliseconds."""
    if _onnxruntime() is None or not _is_exact(OnnxProduct):
        return NumkongProduct
    return min((OnnxProduct, NumkongProduct), key=_seconds)


@functools.cache
def has_fast_integers() -> bool:
    """Whether the processor has VNNI: these products take a quarter of the time of float32's."""
    found: dict[str, bool] = {} if _numkong is None else numkong.get_capabilities()
    return any(found.get(name, False) for name in _WITH_VNNI)


def _is_exact(kind: type[OnnxProduct]) -> bool:
    """Whether the largest numbers there are give the sums that they have."""
    signs = np.where(np.arange(256) % 3, 1, -1).astype(np.int8)
    weight = np.stack([127 * signs, np.full(256, 127, np.int8), np.full(256, -127, np.int8)])
    x = np.stack([np.full(256, 255, np.uint8), np.zeros(256, np.uint8)])
    expected = (x.astype(np.int32) - MIDDLE) @ weight.astype(np.int32).T
    return np.array_equal(kind(weight, np.ones(len(weight), np.float32))(x), expected)


def _seconds(kind: type[NumkongProduct] | type[OnnxProduct]) -> float:
    random = np.random.default_rng(0)
    weight = random.integers(-127, 128, _TRIED).astype(np.int8)
    x = random.integers(0, 256, (_TRIED_ROWS, _TRIED[1])).astype(np.uint8)
    product = kind(weight, np.ones(len(weight), np.float32))
    times: list[float] = []
    for _ in range(_TRIES):
        begun = time.perf_counter()
        product(x)
        times.append(time.perf_counter() - begun)
    return min(times)


def onnx_model(weight: NDArray[np.int8], steps: NDArray[np.float32]) -> bytes:
    """A model of ONNX; importing the package onnx would take a quarter of a second at each start.

    It is `y = (float)((x - 128) @ weight.T) * steps`, one node with its constants.

    Args:
        weight: (out_dims, in_dims).
        steps: (out_dims,).

    Returns:
        A serialized ModelProto; `x` is (rows, in_dims) uint8, `y` (rows, out_dims) float32.
    """
    constants: Mapping[str, NDArray[np.generic]] = {
        "weight": np.ascontiguousarray(weight.T),
        "one": np.ones((), np.float32),
        "steps": steps,
        "middle": np.full((), 128, np.uint8),
    }
    inputs = ("x", "weight", "one", "steps", "middle")
    node = [part for name in inputs for part in _text(1, name)]
    node += [*_text(2, "y"), *_text(4, "MatMulIntegerToFloat"), *_text(7, _MICROSOFT)]
    graph = [*_message(1, node), *_text(2, "product")]
    for name, array in constants.items():
        graph += _message(5, _tensor(name, array))
    out_dims, in_dims = weight.shape
    graph += _message(11, _described("x", _UINT8, in_dims))
    graph += _message(12, _described("y", _FLOAT, out_dims))
    model = [*_number(1, _IR_VERSION), *_message(7, graph)]
    for domain, version in (("", _OPSET), (_MICROSOFT, 1)):
        model += _message(8, [*_text(1, domain), *_number(2, version)])
    return b"".join(model)


Parts = list[bytes | memoryview]
"""Of a message, joined once all is there: a weight is long."""


def _tensor(name: str, array: NDArray[np.generic]) -> Parts:
    dims = [part for size in array.shape for part in _number(1, size)]
    content = array.reshape(-1).view(np.uint8).data
    return [*dims, *_number(2, _TYPES[array.dtype]), *_text(8, name), *_message(9, [content])]


def _described(name: str, type_: int, width: int) -> Parts:
    """(rows, width), where any number of rows goes."""
    shape = [*_message(1, _text(2, "rows")), *_message(1, _number(1, width))]
    tensor = [*_number(1, type_), *_message(2, shape)]
    return [*_text(1, name), *_message(2, _message(1, tensor))]


def _number(field: int, value: int) -> Parts:
    return [_varint(field << 3), _varint(value)]


def _text(field: int, text: str) -> Parts:
    return _message(field, [text.encode()])


def _message(field: int, parts: Parts) -> Parts:
    return [_varint(field << 3 | 2), _varint(sum(map(len, parts))), *parts]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
