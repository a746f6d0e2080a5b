"""From a file of LoRA factors to updates of the base's Linear layers, one module at a time.

The tensors are taken from the bytes of the file that was hashed, where its header says they are: so
a module costs what it is large, and the engine's thread can take a step between two.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from verse.adapter_files import AdapterFileError, AdapterPlan, ModuleFactors
from verse.safetensors_header import SafetensorsHeader, TensorEntry, parse_header


@dataclass(frozen=True)
class ModuleUpdate:
    """One module's update: y * gain + shift + (x @ a.T) @ b, gain and shift for DoRA only.

    Attributes:
        a: (rank, in_dims), the base's activation type.
        b: (rank, out_dims), scale and DoRA's gain folded in.
        gain: (out_dims,) or None. DoRA's magnitude over the norm of the adapted weight's rows.
        shift: (out_dims,) or None. Gives a bias back what the gain took from it.
    """

    a: mx.array
    b: mx.array
    gain: mx.array | None
    shift: mx.array | None


@dataclass(frozen=True)
class AdapterWeights:
    """All updates of one adapter.

    Attributes:
        modules: By path in the base.
        rank: Largest rank over the modules.
        delta_norm: Frobenius norm of W' - W over all modules together.
    """

    modules: dict[str, ModuleUpdate]
    rank: int
    delta_norm: float


class AdapterReader:
    """Reads the updates of one adapter, module by module. Engine thread only."""

    def __init__(
        self,
        data: bytes | memoryview,
        plan: AdapterPlan,
        linears: Mapping[str, nn.Module],
        dtype: mx.Dtype,
    ) -> None:
        """Begin.

        Args:
            data: The whole file.
            plan: What the names in it mean.
            linears: The base's own layers by path; read for DoRA's norms only.
            dtype: Activation type of the base; the arithmetic before the cast is float32.
        """
        self._data = memoryview(data)
        self._plan = plan
        self._linears = linears
        self._dtype = dtype
        self._header: SafetensorsHeader = parse_header(data)
        self._square = 0.0

    @property
    def delta_norm(self) -> float:
        """Frobenius norm of W' - W over the modules read so far."""
        return math.sqrt(self._square)

    def read(self, module: str) -> ModuleUpdate:
        """One module's update, computed.

        Raises:
            AdapterFileError: there is NaN or infinity in it. One such number in a slot would reach
                every row of the batch, because 0 x NaN is not 0.
        """
        update, square = self._update(self._plan.modules[module], self._linears[module])
        arrays = [x for x in (update.a, update.b, update.gain, update.shift) if x is not None]
        finite = mx.all(mx.stack([mx.all(mx.isfinite(x)) for x in arrays]))
        mx.eval(arrays, square, finite)  # pyright: ignore[reportUnknownMemberType]
        if not finite.item():
            raise AdapterFileError(
                "its weights hold NaN or infinity, as after training that diverged"
            )
        self._square += cast(float, square.item())
        return update

    def _update(self, factors: ModuleFactors, linear: nn.Module) -> tuple[ModuleUpdate, mx.array]:
        """One module's update and the squared Frobenius norm of its delta."""
        dtype = self._dtype
        a = self._tensor(factors.a).astype(mx.float32)
        b = self._tensor(factors.b).astype(mx.float32) * factors.scale
        a, b = (a, b.T) if factors.transposed else (a.T, b)
        if factors.m is None:
            # |AB|² from the Gram matrices of the factors: rank x rank instead of in x out.
            square = mx.sum((a @ a.T) * (b @ b.T))
            return ModuleUpdate(_stored(a, dtype), _stored(b, dtype), None, None), square
        weight = _dense_weight(linear)
        adapted = weight + b.T @ a
        gain = self._tensor(factors.m).astype(mx.float32) / mx.linalg.norm(adapted, axis=1)
        bias = _parameter(linear, "bias")
        shift = None if bias is None else bias.astype(mx.float32) * (1 - gain)
        square = mx.sum(mx.square(gain[:, None] * adapted - weight))
        update = ModuleUpdate(
            _stored(a, dtype),
            _stored(b * gain, dtype),
            gain.astype(dtype),
            None if shift is None else shift.astype(dtype),
        )
        return update, square

    def _tensor(self, name: str) -> mx.array:
        entry = self._header.tensors[name]
        begin, end = (self._header.data_start + offset for offset in entry.data_offsets)
        return _array(self._data[begin:end], entry, name)


def load_weights(
    data: bytes, plan: AdapterPlan, linears: Mapping[str, nn.Module], dtype: mx.Dtype
) -> AdapterWeights:
    """All of them at once; the arguments are `AdapterReader`'s, and it raises as that does."""
    reader = AdapterReader(data, plan, linears, dtype)
    modules = {module: reader.read(module) for module in plan.modules}
    return AdapterWeights(modules, plan.rank, reader.delta_norm)


def _array(data: memoryview, entry: TensorEntry, name: str) -> mx.array:
    """A copy of a tensor.

    Raises:
        AdapterFileError: it is of a type that no factor has.
    """
    if entry.dtype == "BF16":
        return mx.array(np.frombuffer(data, np.uint16).reshape(entry.shape)).view(mx.bfloat16)
    types = {"F16": np.float16, "F32": np.float32}
    if entry.dtype not in types:
        raise AdapterFileError(
            f"{name} is of type {entry.dtype}, and factors are F16, BF16 or F32; save them as one "
            "of these."
        )
    return mx.array(np.frombuffer(data, types[entry.dtype]).reshape(entry.shape))


def _stored(factor: mx.array, dtype: mx.Dtype) -> mx.array:
    return mx.contiguous(factor.astype(dtype))


def _dense_weight(linear: nn.Module) -> mx.array:
    """(out_dims, in_dims), float32."""
    weight = _parameter(linear, "weight")
    assert weight is not None
    if not isinstance(linear, nn.QuantizedLinear):
        return weight.astype(mx.float32)
    scales = _parameter(linear, "scales")
    assert scales is not None
    return mx.dequantize(
        weight,
        scales,
        _parameter(linear, "biases"),
        group_size=linear.group_size,
        bits=linear.bits,
        mode=linear.mode,
    ).astype(mx.float32)


def _parameter(linear: nn.Module, name: str) -> mx.array | None:
    return cast(dict[str, mx.array], linear).get(name)
