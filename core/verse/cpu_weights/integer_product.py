"""Products of integers of 8 bits, by the library that is fastest at them here.

onnxruntime's kernels reach the peak of VNNI, which on a processor without AMX is twice what numkong
reaches. On processors before VNNI its sums of two products may not fit into 16 bits, so before it
is used it must give the exact sums, of the largest numbers there are, here.
"""

import ctypes
import functools
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
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
_WEIGHT = "weight"
_NO_FILE = Path(os.devnull)
_FOLDER_OF_FILES = "session.model_external_initializers_file_folder_path"

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
        out_dims, in_dims = weight.shape
        memory = _scratch(weight.size) if _is_packed() else np.empty(weight.size, np.int8)
        columns = memory.reshape(in_dims, out_dims)
        _transpose(weight, columns)
        # To be kept as long as the session is, which reads no more of it than `_is_packed` says.
        self._given = _onnxruntime().OrtValue.ortvalue_from_numpy(columns)
        self._run = _run_of(product_model(weight.shape, steps), self._given)
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


Run = Callable[[list[str], dict[str, Any], None], list[Any]]


def _run_of(model: bytes, weight: Any = None) -> Run:
    """What a model does with a weight, if it has one: an OrtValue, which is kept by the caller."""
    # Python's wrapper keeps the model's bytes, to start again on another processor.
    return _session(model, weight)._sess.run


def _session(model: bytes, weight: Any = None) -> Any:
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # What a product needs is little and soon gone; an arena for each would keep all of it.
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    if weight is not None:
        # Of the ways to give a weight from outside the one that copies nothing. It wants to be told
        # of a file that is there, and does not open it.
        options.add_initializer(_WEIGHT, weight)
        options.add_session_config_entry(_FOLDER_OF_FILES, str(_NO_FILE.parent))
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@functools.cache
def _is_packed() -> bool:
    """Whether a session packs its weight into memory of its own, so that ours may go.

    It does where its kernels are for this processor; otherwise it reads ours at each product.
    """
    columns, x = np.ones((64, 64), np.int8), np.full((1, 64), MIDDLE + 1, np.uint8)
    given = _onnxruntime().OrtValue.ortvalue_from_numpy(columns)
    run = _run_of(product_model(columns.shape, np.ones(64, np.float32)), given)
    columns[:] = 0
    return bool((run(["y"], {"x": x}, None)[0] == 64).all())


class _Scratch(threading.local):
    """Memory of each thread, used again: new pages would take longer than what they are for."""

    numbers = np.empty(0, np.int8)


_scratches = _Scratch()


def _scratch(size: int) -> NDArray[np.int8]:
    if len(_scratches.numbers) < size:
        _scratches.numbers = np.empty(size, np.int8)
    return _scratches.numbers[:size]


@functools.cache
def _transposing() -> Any:
    return _session(transposing_model())


def _transpose(weight: NDArray[np.int8], columns: NDArray[np.int8]) -> None:
    """(out_dims, in_dims) into (in_dims, out_dims), in a fifth of numpy's time."""
    session = _transposing()
    binding = session.io_binding()
    binding.bind_cpu_input("x", np.ascontiguousarray(weight))
    place = columns.ctypes.data
    binding.bind_output("y", "cpu", 0, np.int8, columns.shape, place)
    session.run_with_iobinding(binding)


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


def product_model(shape: tuple[int, ...], steps: NDArray[np.float32]) -> bytes:
    """A model of ONNX; importing the package onnx would take a quarter of a second at each start.

    It is `y = (float)((x - 128) @ weight) * steps`, one node with its constants. The weight itself
    is given to the session: within the model it would be copied three times on its way there.

    Args:
        shape: (out_dims, in_dims); the weight is (in_dims, out_dims).
        steps: (out_dims,).

    Returns:
        A serialized ModelProto; `x` is (rows, in_dims) uint8, `y` (rows, out_dims) float32.
    """
    out_dims, in_dims = shape
    constants: Mapping[str, NDArray[np.generic]] = {
        "one": np.ones((), np.float32),
        "steps": steps,
        "middle": np.full((), 128, np.uint8),
    }
    node = [part for name in ("x", _WEIGHT, "one", "steps", "middle") for part in _text(1, name)]
    node += [*_text(2, "y"), *_text(4, "MatMulIntegerToFloat"), *_text(7, _MICROSOFT)]
    graph = [*_message(1, node), *_text(2, "product")]
    graph += _message(5, _given(_WEIGHT, np.dtype(np.int8), (in_dims, out_dims)))
    for name, array in constants.items():
        graph += _message(5, _tensor(name, array))
    graph += _message(11, _described("x", np.dtype(np.uint8), ("rows", in_dims)))
    graph += _message(12, _described("y", np.dtype(np.float32), ("rows", out_dims)))
    return _model(graph)


def transposing_model() -> bytes:
    """A model whose `y` are the columns of `x`, numbers of 8 bits."""
    node = [*_text(1, "x"), *_text(2, "y"), *_text(4, "Transpose")]
    graph = [*_message(1, node), *_text(2, "transpose")]
    graph += _message(11, _described("x", np.dtype(np.int8), ("rows", "columns")))
    graph += _message(12, _described("y", np.dtype(np.int8), ("columns", "rows")))
    return _model(graph)


Parts = list[bytes | memoryview]
"""Of a message, joined once all is there: a weight is long."""


def _model(graph: Parts) -> bytes:
    model = [*_number(1, _IR_VERSION), *_message(7, graph)]
    for domain, version in (("", _OPSET), (_MICROSOFT, 1)):
        model += _message(8, [*_text(1, domain), *_number(2, version)])
    return b"".join(model)


def _tensor(name: str, array: NDArray[np.generic]) -> Parts:
    dims = [part for size in array.shape for part in _number(1, size)]
    content = array.reshape(-1).view(np.uint8).data
    return [*dims, *_number(2, _TYPES[array.dtype]), *_text(8, name), *_message(9, [content])]


def _given(name: str, dtype: Any, shape: tuple[int, ...]) -> Parts:
    """A tensor whose content comes with the session."""
    dims = [part for size in shape for part in _number(1, size)]
    elsewhere = _message(13, [*_text(1, "location"), *_text(2, _NO_FILE.name)])
    return [*dims, *_number(2, _TYPES[dtype]), *_text(8, name), *elsewhere, *_number(14, 1)]


def _described(name: str, dtype: Any, shape: tuple[str | int, ...]) -> Parts:
    """What goes in or comes out; a dimension with a name may be any."""
    dims = [_text(2, size) if isinstance(size, str) else _number(1, size) for size in shape]
    in_each = [part for dim in dims for part in _message(1, dim)]
    tensor = [*_number(1, _TYPES[dtype]), *_message(2, in_each)]
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
