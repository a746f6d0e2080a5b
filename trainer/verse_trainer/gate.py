"""The gate of a block, silu(gate) * up: on a CPU as much time as the matrix products beside it.

mlx computes it there in thirty passes over its numbers, one core at work. numpy takes a tenth of
that, but is no part of a graph. So `HostGates` leaves room in the graph for what it will compute:

    gates = HostGates()
    value, gradient = value_and_grad(a function that calls gates(gate, up))(...)
    gates.compute()                       # in the order in which they were asked for
    mx.eval(value, gradient)
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import mlx.core as mx
import numpy as np

from verse.base_model import runs_on_cpu

Gated = Callable[[mx.array, mx.array], mx.array]
"""(gate, up) to silu(gate) * up."""

_Floats = np.ndarray[Any, np.dtype[np.float32]]
_BLOCK_NUMBERS = 1 << 16
"""Worked on at a time, so that they stay near the processor."""
_LOWEST_GATE = -87.0
"""Below, exp(-gate) would not be finite; silu is nothing there."""


def gated_at_once(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) * up, computed now where numpy is faster; there is no gradient."""
    if not _is_for_numpy(gate):
        return gated(gate, up)
    cast(Any, mx).eval(gate, up)
    result, *slopes = (np.empty(gate.shape, np.float32) for _ in range(3))
    _fill(_numbers(gate), _numbers(up), result, *slopes)
    return mx.array(result)


class HostGates:
    """Those of one forward whose gradient is taken, and which is evaluated once."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[mx.array, ...]] = deque()

    def __call__(self, gate: mx.array, up: mx.array) -> mx.array:
        """silu(gate) * up, once `compute` was called; before that it must not be evaluated."""
        if not _is_for_numpy(gate):
            return gated(gate, up)
        rooms = [mx.array(np.empty(gate.shape, np.float32)) for _ in range(3)]
        self._waiting.append((gate, up, *rooms))
        return cast(mx.array, _placed(gate, up, *rooms))

    def compute(self) -> None:
        """Evaluate what each gate reads, which may depend on those before, and fill its room."""
        while self._waiting:  # what a gate has read goes as soon as it is computed
            arrays = self._waiting.popleft()
            cast(Any, mx).eval(*arrays)
            _fill(*map(_numbers, arrays))


def _is_for_numpy(gate: mx.array) -> bool:
    return runs_on_cpu() and gate.dtype == mx.float32


def _numbers(array: mx.array) -> _Floats:
    """The memory of an evaluated array."""
    return cast(_Floats, np.array(array, copy=False))


@np.errstate(over="ignore", invalid="ignore")  # whoever sees the loss tells it
def _fill(gate: _Floats, up: _Floats, result: _Floats, by_gate: _Floats, by_up: _Floats) -> None:
    """silu(gate) * up, and its derivatives by both."""
    rows = max(1, _BLOCK_NUMBERS // gate.shape[-1])
    for first in range(0, len(gate), rows):
        part = slice(first, first + rows)
        sigmoid, silu = by_gate[part], by_up[part]
        np.maximum(gate[part], _LOWEST_GATE, out=silu)
        np.negative(silu, out=sigmoid)
        np.exp(sigmoid, out=sigmoid)
        sigmoid += 1
        np.reciprocal(sigmoid, out=sigmoid)
        silu *= sigmoid
        np.multiply(silu, up[part], out=result[part])
        rest = 1 - sigmoid
        rest *= silu
        sigmoid += rest
        sigmoid *= up[part]


def _forward_placed(
    _gate: mx.array, _up: mx.array, result: mx.array, _by_gate: mx.array, _by_up: mx.array
) -> mx.array:
    return result


def _backward_placed(
    inputs: Sequence[mx.array], cotangent: mx.array, _output: mx.array
) -> tuple[mx.array, ...]:
    _, _, *rooms = inputs
    return cotangent * rooms[1], cotangent * rooms[2], *map(mx.zeros_like, rooms)


_placed: Any = cast(Any, mx).custom_function(_forward_placed)
_placed.vjp(_backward_placed)


def gated(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) * up, as a part of the graph."""
    if runs_on_cpu() and gate.dtype == mx.float32:
        return _swiglu(gate, up)
    return gate * mx.sigmoid(gate) * up


# exp(x) = 2^n exp(f) with f = x - n ln 2, whose two parts keep it exact; the polynomial is that of
# Cephes' expf. On a CPU it takes a third of the time of mlx's own, which goes number by number.
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_POLYNOMIAL = (
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
_FIRST_COEFFICIENT = 1.9875691500e-4
_LOWEST, _HIGHEST = -87.0, 88.0
_EXPONENT_BIAS, _MANTISSA_BITS = 127, 23


def _exp(x: mx.array) -> mx.array:
    """Of float32, to its last digit."""
    x = mx.clip(x, _LOWEST, _HIGHEST)
    power = mx.round(x / math.log(2))
    rest = x - power * _LN2_HIGH - power * _LN2_LOW
    sum_ = mx.array(_FIRST_COEFFICIENT)
    for coefficient in _POLYNOMIAL:
        sum_ = sum_ * rest + coefficient
    exponent = (power.astype(mx.int32) + _EXPONENT_BIAS) << _MANTISSA_BITS
    return (sum_ * (rest * rest) + rest + 1) * exponent.view(mx.float32)


def _sigmoid(x: mx.array) -> mx.array:
    return 1 / (1 + _exp(-x))


def _forward_swiglu(gate: mx.array, up: mx.array) -> mx.array:
    return gate * _sigmoid(gate) * up


def _backward_swiglu(
    inputs: Sequence[mx.array], cotangent: mx.array, _output: mx.array
) -> tuple[mx.array, mx.array]:
    """Computed anew from the inputs, which are kept anyway: the widest arrays of a block."""
    gate, up = inputs
    sigmoid = _sigmoid(gate)
    silu = gate * sigmoid
    return cotangent * up * (sigmoid + silu * (1 - sigmoid)), cotangent * silu


_swiglu: Any = cast(Any, mx).custom_function(_forward_swiglu)
_swiglu.vjp(_backward_swiglu)
