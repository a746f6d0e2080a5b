"""Read an adapter's tensors into the form the batch uses. Engine thread only."""

import io
from dataclasses import dataclass
from typing import cast

import mlx.core as mx
import mlx.nn as nn

from verse.adapter_files import AdapterFileError, AdapterPlan, ModuleFactors


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

    @property
    def uses_dora(self) -> bool:
        """Whether any module has a gain."""
        return any(update.gain is not None for update in self.modules.values())


def load_weights(
    data: bytes, plan: AdapterPlan, linears: dict[str, nn.Module], dtype: mx.Dtype
) -> AdapterWeights:
    """Turn the bytes of a safetensors file into updates of the base's Linear layers.

    Args:
        data: The whole file.
        plan: What the names in it mean.
        linears: The base's own layers by path; read for DoRA's norms only.
        dtype: Activation type of the base; the arithmetic before the cast is float32.

    Raises:
        AdapterFileError: there is NaN or infinity in it. One such number in a slot would reach
            every row of the batch, because 0 x NaN is not 0.
    """
    tensors = mx.load(io.BytesIO(data), format="safetensors")
    assert isinstance(tensors, dict)
    updates: dict[str, ModuleUpdate] = {}
    squares: list[mx.array] = []
    for module, factors in plan.modules.items():
        update, square = _update(tensors, factors, linears[module], dtype)
        updates[module] = update
        squares.append(square)
    arrays = [x for u in updates.values() for x in (u.a, u.b, u.gain, u.shift) if x is not None]
    finite = mx.all(mx.stack([mx.all(mx.isfinite(x)) for x in arrays]))
    mx.eval(arrays, squares, finite)  # pyright: ignore[reportUnknownMemberType]
    if not finite.item():
        raise AdapterFileError("its weights hold NaN or infinity, as after training that diverged")
    delta_norm = cast(float, mx.sqrt(mx.sum(mx.stack(squares))).item())
    return AdapterWeights(updates, plan.rank, delta_norm)


def _update(
    tensors: dict[str, mx.array], factors: ModuleFactors, linear: nn.Module, dtype: mx.Dtype
) -> tuple[ModuleUpdate, mx.array]:
    """One module's update and the squared Frobenius norm of its delta."""
    a = tensors[factors.a].astype(mx.float32)
    b = tensors[factors.b].astype(mx.float32) * factors.scale
    a, b = (a, b.T) if factors.transposed else (a.T, b)
    if factors.m is None:
        # |AB|² from the Gram matrices of the factors: rank x rank instead of in x out.
        square = mx.sum((a @ a.T) * (b @ b.T))
        return ModuleUpdate(_stored(a, dtype), _stored(b, dtype), None, None), square
    weight = _dense_weight(linear)
    adapted = weight + b.T @ a
    gain = tensors[factors.m].astype(mx.float32) / mx.linalg.norm(adapted, axis=1)
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
