"""The rows of a layer as a model folder stores them, in chunks: plain, or in 4 or 8 bits.

A quantized matrix becomes bfloat16 or 8 bits a chunk at a time; the whole is never there as
float32. Engine thread only, or whoever owns mlx.
"""

from collections.abc import Iterator
from typing import Any, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from verse.cpu_weights.packed import numkong

Layer = Any
"""A Linear or an Embedding of mlx, plain or quantized; mlx.nn has no types."""

_CHUNK_NUMBERS = 8 << 20
"""Numbers of one chunk."""
_BITS = (4, 8)
_GROUP_SIZES = (32, 64, 128)


class CannotRepackError(ValueError):
    """The weights are of a form that is not repacked; says which."""


def shape_of(layer: Layer) -> tuple[int, int]:
    """(out_dims, in_dims) of a Linear or an Embedding, plain or quantized."""
    rows, columns = cast(mx.array, layer["weight"]).shape
    return rows, columns * 32 // layer.bits if is_quantized(layer) else columns


def is_quantized(layer: Layer) -> bool:
    """Whether its numbers are packed into words."""
    return "scales" in layer


def check_can_be_repacked(layer: Layer) -> None:
    """Of a quantized layer, whether `rows_of` reads it.

    Raises:
        CannotRepackError: it does not.
    """
    if not is_quantized(layer):
        return
    mode = str(getattr(layer, "mode", "affine"))
    if mode != "affine":
        raise CannotRepackError(f"{mode} weights")
    if layer.bits not in _BITS:
        raise CannotRepackError(f"weights of {layer.bits} bits")
    if layer.group_size not in _GROUP_SIZES:
        raise CannotRepackError(f"weights in groups of {layer.group_size}")


def rows_of(layer: Layer) -> Iterator[Any]:
    """All rows in chunks: float32 as numpy has it, or bfloat16 as numkong has it."""
    num_rows, num_columns = shape_of(layer)
    each = max(1, _CHUNK_NUMBERS // num_columns)
    for first in range(0, num_rows, each):
        yield on_host(_chunk(layer, slice(first, first + each)))


def on_host(array: mx.array) -> Any:
    """The same numbers outside mlx; bfloat16 stays what it is, all else becomes float32."""
    if array.dtype != mx.bfloat16:
        return cast(Any, np.array(array.astype(mx.float32), copy=False))
    bits = cast(NDArray[np.uint16], np.array(array.view(mx.uint16), copy=False))
    bits = np.ascontiguousarray(bits)
    return numkong.from_pointer(bits.ctypes.data, bits.shape, "bf16", owner=bits)


def _chunk(layer: Layer, rows: slice) -> mx.array:
    weight = cast(mx.array, layer["weight"])[rows]
    if not is_quantized(layer):
        return weight
    biases = layer.get("biases")
    return mx.dequantize(
        weight,
        layer["scales"][rows],
        None if biases is None else biases[rows],
        group_size=layer.group_size,
        bits=layer.bits,
    )
