"""The same update in the other dialect, and the proof that it is the same.

    mlx-lm   y += scale * (x @ a) @ b            a (in, rank), b (rank, out)
    PEFT     y += alpha / rank * x @ A.T @ B.T   A (rank, in), B (out, rank)

with alpha / sqrt(rank) where PEFT uses rsLoRA. mlx-lm has one rank and one scale for all modules,
so ranks are padded with zeros and what a module's scale differs by goes into its b. DoRA's
magnitude is the same in both.

After a conversion both sides are read from the disk and put through their own library's formula, on
random input. A transposed factor of a square layer has the right shape and the right names; only
numbers tell.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import mlx.core as mx
import msgspec

from verse.adapter_config import AdapterConfig
from verse.adapter_files import ModuleFactors
from verse_trainer.adapters.factors import AdapterTensors, Tensors, read_adapter
from verse_trainer.adapters.facts import split_block
from verse_trainer.errors import ConversionError

TOLERANCE = 1e-4
"""Largest difference, as a share of the largest number. Transposing is exact; sums are not."""
_ROWS = 4


class Targets(msgspec.Struct, frozen=True):
    """The modules, as PEFT picks them out of a model."""

    modules: list[str]
    layers: list[int] | None


class MlxParameters(msgspec.Struct, frozen=True, kw_only=True):
    """`lora_parameters`, with all that mlx-lm's loader asks for."""

    rank: int
    scale: float
    dropout: float
    keys: list[str]


class MlxFile(msgspec.Struct, frozen=True, kw_only=True):
    """mlx-lm's `adapter_config.json`."""

    fine_tune_type: str
    num_layers: int = -1
    """All blocks: mlx-lm counts from the end, and PEFT does not say how many there are."""
    lora_parameters: MlxParameters
    model: str | None


class PeftFile(msgspec.Struct, frozen=True, kw_only=True):
    """PEFT's `adapter_config.json`."""

    peft_type: str = "LORA"
    task_type: str = "CAUSAL_LM"
    base_model_name_or_path: str | None
    r: int
    lora_alpha: float
    lora_dropout: float
    target_modules: list[str]
    layers_to_transform: list[int] | None
    use_dora: bool
    use_rslora: bool = False
    bias: str = "none"
    fan_in_fan_out: bool = False
    inference_mode: bool = True
    init_lora_weights: bool = True
    modules_to_save: None = None
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}


def to_mlx(adapter: AdapterTensors, *, dropout: float, base: str | None) -> tuple[Tensors, MlxFile]:
    """An adapter's tensors and configuration for mlx-lm."""
    plan = adapter.plan
    tensors: Tensors = {}
    for module, factors in plan.modules.items():
        missing = plan.rank - factors.rank
        a, b = adapter.a(factors), adapter.b(factors)
        if factors.scale != plan.scale:
            b = b.astype(mx.float32) * (factors.scale / plan.scale)
        tensors[f"{module}.lora_a"] = mx.contiguous(mx.pad(a, [(0, 0), (0, missing)]))
        tensors[f"{module}.lora_b"] = mx.contiguous(mx.pad(b, [(0, missing), (0, 0)]))
        if (m := adapter.m(factors)) is not None:
            tensors[f"{module}.m"] = m
    parameters = MlxParameters(
        rank=plan.rank, scale=plan.scale, dropout=dropout, keys=block_keys(plan.modules)
    )
    kind = "dora" if plan.uses_dora else "lora"
    return tensors, MlxFile(fine_tune_type=kind, lora_parameters=parameters, model=base)


def to_peft(
    adapter: AdapterTensors, *, dropout: float, base: str | None
) -> tuple[Tensors, PeftFile]:
    """An adapter's tensors and configuration for PEFT."""
    plan = adapter.plan
    tensors: Tensors = {}
    for module, factors in plan.modules.items():
        path = f"base_model.model.{module}"
        tensors[f"{path}.lora_A.weight"] = mx.contiguous(adapter.a(factors).T)
        tensors[f"{path}.lora_B.weight"] = mx.contiguous(adapter.b(factors).T)
        if (m := adapter.m(factors)) is not None:
            tensors[f"{path}.lora_magnitude_vector"] = m
    targets = peft_targets(plan.modules)
    config = PeftFile(
        base_model_name_or_path=base,
        r=plan.rank,
        lora_alpha=plan.scale * plan.rank,
        lora_dropout=dropout,
        target_modules=targets.modules,
        layers_to_transform=targets.layers,
        use_dora=plan.uses_dora,
    )
    return tensors, config


def peft_targets(modules: Iterable[str]) -> Targets:
    """Name modules as PEFT does: by their ends and the layers they are in.

    Where that would name others too, every path is named in full. The layers are always named:
    how many there are is the base's secret, and naming all of them does no harm.
    """
    paths = sorted(modules)
    blocks: dict[int, set[str]] = {}
    for path in paths:
        block, key = split_block(path)
        if block is None:
            return Targets(paths, None)
        blocks.setdefault(block, set()).add(key)
    keys = next(iter(blocks.values()))
    if any(other != keys for other in blocks.values()):
        return Targets(paths, None)
    return Targets(sorted(keys), sorted(blocks))


def block_keys(modules: Iterable[str]) -> list[str]:
    """mlx-lm's `keys`; it takes a full path for a module outside of the blocks."""
    return sorted({split_block(path)[1] for path in modules})


def compare_updates(before: tuple[Path, AdapterConfig], after: tuple[Path, AdapterConfig]) -> float:
    """The largest relative difference between the updates of two files, over all modules.

    Raises:
        ConversionError: it is above the tolerance, or the modules are not the same.
    """
    first, second = read_adapter(*before, converts_float64=True), read_adapter(*after)
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


def _difference(first: AdapterTensors, second: AdapterTensors, module: str, key: mx.array) -> float:
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
