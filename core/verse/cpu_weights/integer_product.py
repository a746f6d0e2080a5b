"""Products of integers of 8 bits, by the library that is fastest at them here.

onnxruntime's kernels reach the peak of VNNI, which on a processor without AMX is twice what numkong
reaches; with AMX they are the faster ones for few rows. On processors before VNNI its sums of two
products may not fit into 16 bits, so before it is used it must give the exact sums, of the largest
numbers there are, here.
"""

import ctypes
import functools
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from verse.cpu_weights.onnx_graph import NO_FILE, OnnxGraph

_log = logging.getLogger(__name__)

try:
    import numkong as _numkong
except ImportError:  # `packing` says so before anything is packed
    _numkong = None

numkong = cast(Any, _numkong)
"""Its types know neither `dots_pack` nor what a Tensor may be given to."""

MIDDLE = 128
"""Activations are kept as this more than they are: MLAS is fast with unsigned ones only."""

WEIGHT = "weight"
_FOLDER_OF_FILES = "session.model_external_initializers_file_folder_path"

_TRIED = (1024, 896)
_TRIED_ROWS = 2
"""What a poem alone has, each of its halves being one. For many rows numkong's AMX looks as fast
while the weights are in the cache, and is slower where a step reads them from memory."""
_TRIES = 5
_WORTH_IT = 2.0
"""So much faster numkong has to be: onnxruntime alone does an MLP in one piece, in less time."""
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
        # To be kept as long as the session is, which reads no more of it than `_is_packed` says.
        self._given = given_columns(weight)
        self._run = session_run(product_model(weight.shape, steps), self._given)
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


def session_run(model: bytes, weight: Any = None) -> Run:
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
        options.add_initializer(WEIGHT, weight)
        options.add_session_config_entry(_FOLDER_OF_FILES, str(NO_FILE.parent))
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@functools.cache
def _is_packed() -> bool:
    """Whether a session packs its weight into memory of its own, so that ours may go.

    It does where its kernels are for this processor; otherwise it reads ours at each product.
    """
    columns, x = np.ones((64, 64), np.int8), np.full((1, 64), MIDDLE + 1, np.uint8)
    given = _onnxruntime().OrtValue.ortvalue_from_numpy(columns)
    run = session_run(product_model(columns.shape, np.ones(64, np.float32)), given)
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


def given_columns(weight: NDArray[np.int8]) -> Any:
    """An OrtValue of (out_dims, in_dims), turned round for a session; kept as long as that is."""
    memory = _scratch(weight.size) if _is_packed() else np.empty(weight.size, np.int8)
    columns = memory.reshape(weight.shape[::-1])
    _transpose(weight, columns)
    return _onnxruntime().OrtValue.ortvalue_from_numpy(columns)


@functools.cache
def fastest_product() -> type[NumkongProduct] | type[OnnxProduct]:
    """The one to take on this processor; asked once, it takes some milliseconds."""
    if _onnxruntime() is None or not _is_exact(OnnxProduct):
        return NumkongProduct
    of_onnx, of_numkong = _seconds(OnnxProduct, NumkongProduct)
    return NumkongProduct if of_numkong * _WORTH_IT < of_onnx else OnnxProduct


@functools.cache
def has_fast_integers() -> bool:
    """Whether the processor has VNNI: these products take a quarter of the time of float32's."""
    found: dict[str, bool] = {} if _numkong is None else numkong.get_capabilities()
    return any(found.get(name, False) for name in _WITH_VNNI)


def _is_exact(kind: type[OnnxProduct]) -> bool:
    """Whether the largest numbers there are give the sums that they have; False if none come."""
    signs = np.where(np.arange(256) % 3, 1, -1).astype(np.int8)
    weight = np.stack([127 * signs, np.full(256, 127, np.int8), np.full(256, -127, np.int8)])
    x = np.stack([np.full(256, 255, np.uint8), np.zeros(256, np.uint8)])
    expected = (x.astype(np.int32) - MIDDLE) @ weight.astype(np.int32).T
    try:
        sums = kind(weight, np.ones(len(weight), np.float32))(x)
    except Exception:  # noqa: BLE001  (whatever a version raises that takes no weight so)
        _log.warning("onnxruntime cannot be used here, which makes products slower.", exc_info=True)
        return False
    return np.array_equal(sums, expected)


def _seconds(*kinds: type[NumkongProduct] | type[OnnxProduct]) -> list[float]:
    """The shortest try of each; they take turns, for a processor's speed may change meanwhile."""
    random = np.random.default_rng(0)
    weight = random.integers(-127, 128, _TRIED).astype(np.int8)
    x = random.integers(0, 256, (_TRIED_ROWS, _TRIED[1])).astype(np.uint8)
    products = [kind(weight, np.ones(len(weight), np.float32)) for kind in kinds]
    times: list[list[float]] = [[] for _ in kinds]
    for _ in range(_TRIES):
        for product, of_kind in zip(products, times, strict=True):
            begun = time.thread_time()  # what others do meanwhile must not decide
            product(x)
            of_kind.append(time.thread_time() - begun)
    return list(map(min, times))


def product_model(shape: tuple[int, ...], steps: NDArray[np.float32]) -> bytes:
    """A model of ONNX: `y = (float)((x - MIDDLE) @ weight) * steps`.

    Args:
        shape: (out_dims, in_dims); the weight is (in_dims, out_dims).
        steps: (out_dims,).

    Returns:
        A serialized ModelProto; `x` is (rows, in_dims) uint8, `y` (rows, out_dims) float32.
    """
    out_dims, in_dims = shape
    graph = OnnxGraph()
    x = graph.input("x", np.uint8, ("rows", in_dims))
    y = integer_product(graph, x, graph.weight(WEIGHT, np.int8, (in_dims, out_dims)), steps)
    graph.output("y", y, np.float32, ("rows", out_dims))
    return graph.serialized()


def integer_product(graph: OnnxGraph, x: str, weight: str, steps: NDArray[np.float32]) -> str:
    """The node that is the product; see `product_model`."""
    one, of_columns = graph.constant(np.ones((), np.float32)), graph.constant(steps)
    middle = graph.constant(np.full((), MIDDLE, np.uint8))
    return graph.node("MatMulIntegerToFloat", x, weight, one, of_columns, middle)


def transposing_model() -> bytes:
    """A model whose `y` are the columns of `x`, numbers of 8 bits."""
    graph = OnnxGraph()
    x = graph.input("x", np.int8, ("rows", "columns"))
    graph.output("y", graph.node("Transpose", x), np.int8, ("columns", "rows"))
    return graph.serialized()
