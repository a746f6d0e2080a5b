"""After a conversion: does the written folder compute what the first one computed?

Both sides are read from the disk and put through their own library's formula, on random input. A
transposed factor of a square layer has the right shape and the right names; only numbers tell.
"""

from pathlib import Path
from typing import cast

import mlx.core as mx

from verse.adapter_config import AdapterConfig
from verse.adapter_files import ModuleFactors
from verse_trainer.adapters.factors import Adapter, read_adapter
from verse_trainer.errors import ConversionError

TOLERANCE = 1e-4
"""Largest difference, as a share of the largest number. Transposing is exact; sums are not."""
_ROWS = 4


def compare_updates(before: tuple[Path, AdapterConfig], after: tuple[Path, AdapterConfig]) -> float:
    """The largest relative difference between the updates of two files, over all modules.

    Raises:
        ConversionError: it is above the tolerance, or the modules are not the same.
    """
    first, second = read_adapter(*before), read_adapter(*after)
    if first.plan.modules.keys() != second.plan.modules.keys():
        raise ConversionError("The converted adapter changes other modules; this is a bug.")
    keys = mx.random.split(mx.random.key(0), len(first.plan.modules))
    worst = 0.0
    for key, module in zip(keys, first.plan.modules, strict=True):
        difference = _difference(first, second, module, key)
        if not difference <= TOLERANCE:  # so that NaN fails too
            raise ConversionError(
                f"The self-check failed: {module} computes something else after the conversion "
                f"(off by {difference:.1e} of its size), so nothing was kept; this is a bug."
            )
        worst = max(worst, difference)
    return worst


def _difference(first: Adapter, second: Adapter, module: str, key: mx.array) -> float:
    factors = first.plan.modules[module]
    in_dims, out_dims = first.a(factors).shape[0], first.b(factors).shape[1]
    input_key, weight_key = mx.random.split(key)
    x = mx.random.normal((_ROWS, in_dims), key=input_key)
    # DoRA's update depends on the weight it changes, so there is one, the same for both.
    weight = mx.random.normal((out_dims, in_dims), key=weight_key)
    before = _update(first.tensors, factors, x, weight)
    after = _update(second.tensors, second.plan.modules[module], x, weight)
    size = mx.maximum(mx.max(mx.abs(before)), mx.max(mx.abs(after)))
    off = mx.max(mx.abs(after - before))
    return cast(float, mx.where(size == 0, 0.0, off / size).item())


def _update(
    tensors: dict[str, mx.array], factors: ModuleFactors, x: mx.array, weight: mx.array
) -> mx.array:
    """What the adapter adds to `x @ weight.T`: (rows, out_dims)."""
    a, b = tensors[factors.a].astype(mx.float32), tensors[factors.b].astype(mx.float32)
    if factors.transposed:  # peft/tuners/lora/layer.py: lora_B(lora_A(x)) * scaling
        update, delta = factors.scale * ((x @ a.T) @ b.T), factors.scale * (b @ a)
    else:  # mlx_lm/tuner/lora.py: scale * ((x @ lora_a) @ lora_b)
        update, delta = factors.scale * ((x @ a) @ b), factors.scale * (a @ b).T
    if factors.m is None:
        return update
    # DoRA in both: magnitude / norm of the rows of the changed weight (Liu et al. 2024).
    gain = tensors[factors.m].astype(mx.float32) / mx.linalg.norm(weight + delta, axis=1)
    plain = x @ weight.T
    return gain * (plain + update) - plain
