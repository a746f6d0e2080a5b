"""From a file of LoRA factors to updates of the base's Linear layers, one module at a time.

The tensors are taken from the bytes of the file that was hashed, where its header says they are: so
a module costs what it is large, and the engine's thread can take a step between two.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from verse.adapter_files import AdapterFileError, AdapterPlan
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

    @property
    def arrays(self) -> list[mx.array]:
        """Those there are."""
        return [x for x in (self.a, self.b, self.gain, self.shift) if x is not None]


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


@dataclass(frozen=True)
class Factors:
    """One module's factors as its file has them, in float32.

    Attributes:
        a: (rank, in_dims).
        b: (rank, out_dims), the scale folded in.
        m: (out_dims,) or None. DoRA's magnitude.
    """

    a: mx.array
    b: mx.array
    m: mx.array | None


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
            AdapterFileError: there is NaN or infinity in it.
        """
        update, square = module_update(self.factors(module), self._linears[module], self._dtype)
        finite = are_finite(update)
        mx.eval(update.arrays, square, finite)  # pyright: ignore[reportUnknownMemberType]
        self.note(cast(float, square.item()), is_finite=bool(finite.item()))
        return update

    def factors(self, module: str) -> Factors:
        """One module's factors, in float32."""
        planned = self._plan.modules[module]
        a = self._tensor(planned.a).astype(mx.float32)
        b = self._tensor(planned.b).astype(mx.float32) * planned.scale
        a, b = (a, b.T) if planned.transposed else (a.T, b)
        m = None if planned.m is None else self._tensor(planned.m).astype(mx.float32)
        return Factors(a, b, m)

    def note(self, square: float, *, is_finite: bool) -> None:
        """Count the squared norm of a module's delta in.

        Raises:
            AdapterFileError: not all of its numbers are finite. One such number in a slot would
                reach every row of the batch, because 0 x NaN is not 0.
        """
        if not is_finite:
            raise AdapterFileError(
                "its weights hold NaN or infinity, as after training that diverged"
            )
        self._square += square

    def _tensor(self, name: str) -> mx.array:
        entry = self._header.tensors[name]
        begin, end = (self._header.data_start + offset for offset in entry.data_offsets)
        return _array(self._data[begin:end], entry, name)


def module_update(
    factors: Factors, linear: nn.Module, dtype: mx.Dtype
) -> tuple[ModuleUpdate, mx.array]:
    """One module's update and the squared Frobenius norm of its delta."""
    if factors.m is None:
        return plain_update(factors, dtype), plain_square(factors)
    return dora_update(factors, factors.m, linear, dtype)


def plain_update(factors: Factors, dtype: mx.Dtype) -> ModuleUpdate:
    """Without DoRA."""
    return ModuleUpdate(_stored(factors.a, dtype), _stored(factors.b, dtype), None, None)


def plain_square(factors: Factors) -> mx.array:
    """|AB|² from the Gram matrices of the factors: rank x rank instead of in x out."""
    a, b = factors.a, factors.b
    return mx.sum((a @ a.T) * (b @ b.T))


def dora_update(
    factors: Factors,
    m: mx.array,
    linear: nn.Module,
    dtype: mx.Dtype,
    summed: Callable[[mx.array], mx.array] = lambda squares: squares,
) -> tuple[ModuleUpdate, mx.array]:
    """DoRA's update and the squared Frobenius norm of its delta.

    Args:
        factors: Of this layer, or of this process's part of it.
        m: (out_dims,) its magnitude.
        linear: The base's own layer.
        dtype: Of the update.
        summed: Makes squared norms of the whole weight's rows of those of the rows here.
    """
    weight = _dense_weight(linear)
    adapted = weight + factors.b.T @ factors.a
    gain = m / mx.sqrt(summed(mx.sum(mx.square(adapted), axis=1)))
    bias = _parameter(linear, "bias")
    shift = None if bias is None else bias.astype(mx.float32) * (1 - gain)
    update = ModuleUpdate(
        _stored(factors.a, dtype),
        _stored(factors.b * gain, dtype),
        gain.astype(dtype),
        None if shift is None else shift.astype(dtype),
    )
    return update, mx.sum(mx.square(gain[:, None] * adapted - weight))


def are_finite(update: ModuleUpdate) -> mx.array:
    """Whether all of its numbers are."""
    return mx.all(mx.stack([mx.all(mx.isfinite(array)) for array in update.arrays]))


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
    if "scales" not in linear:
        return weight.astype(mx.float32)
    scales = _parameter(linear, "scales")
    assert scales is not None
    quantized = cast(nn.QuantizedLinear, linear)
    return mx.dequantize(
        weight,
        scales,
        _parameter(linear, "biases"),
        group_size=quantized.group_size,
        bits=quantized.bits,
        mode=quantized.mode,
    ).astype(mx.float32)


def _parameter(linear: nn.Module, name: str) -> mx.array | None:
    return cast(dict[str, mx.array], linear).get(name)
