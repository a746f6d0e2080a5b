"""Put an adapter into its base for good: a full model that needs no adapter any more.

mlx-lm's layers do the arithmetic. What is written is loaded again and compared with the adapter
applied the ordinary way: rounding to the base's type, and to few bits above all, can lose an update
that training made from many small steps.
"""

import shutil
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import msgspec
from mlx.utils import tree_unflatten
from mlx_lm import utils as mlx_lm_utils
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.lora import LoRALinear

from verse.adapter_digest import adapter_digest, file_digest
from verse.base_model import BaseModel, linear_layers, linear_shapes, load_base_model
from verse.prompt import POEM_SYSTEM
from verse_trainer.adapters.factors import AdapterTensors, read_adapter
from verse_trainer.adapters.folders import Chosen
from verse_trainer.adapters.staging import refuse_existing, staged
from verse_trainer.errors import ConversionError

_SAMPLE = f"{POEM_SYSTEM}：河"
_NOT_COPIED = ("config.json", "model.safetensors.index.json", "README.md")
_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".gguf", ".npz")
_QUANTIZATION_KEYS = ("quantization", "quantization_config")
_ROUNDING = {mx.float32: 1e-4, mx.float16: 2e-3, mx.bfloat16: 2e-2}
"""How far logits may differ, as a share of their size, by the arithmetic of each type alone."""
_MOST_LOST = 0.5


class Fusion(msgspec.Struct, frozen=True, kw_only=True):
    """What was written and what it cost."""

    target: Path
    num_modules: int
    lost: float
    """Share of the adapter's effect on the logits that rounding took; 0 is none."""


def fuse(chosen: Chosen, model: str, output: Path, *, keep_quantized: bool = False) -> Fusion:
    """Write the base with the adapter in it.

    Args:
        chosen: The weights, and the strength to apply them with.
        model: The base: a folder or a Hugging Face id.
        output: The new folder.
        keep_quantized: Quantize the changed layers again, as they were. The default writes a model
            that is not quantized.

    Raises:
        ConversionError: the adapter does not fit, the output already exists, or the fused model
            does not write what base and adapter together would.
    """
    refuse_existing(output)
    base = load_base_model(model, as_stored=True)
    is_quantized = any(key in base.config for key in _QUANTIZATION_KEYS)
    if keep_quantized and not is_quantized:
        raise ConversionError(f"{model} is not quantized; leave --keep-quantized out.")
    adapter = _read(chosen, base)
    plain = _logits(base)
    layers = _apply(base, adapter, chosen.part.strength)
    adapted = _logits(base)
    _replace(
        base.model, {path: _fused(layer, keep_quantized, base.dtype) for path, layer in layers}
    )
    with staged(output) as stage:
        _save(base, stage, keep_quantized=keep_quantized)
        (stage / "README.md").write_text(_note(chosen, base), encoding="utf-8")
        fused = _logits(load_base_model(str(stage), as_stored=True))
        lost = _lost(plain, adapted, fused, base.dtype)
    return Fusion(target=output, num_modules=len(layers), lost=lost)


def _read(chosen: Chosen, base: BaseModel) -> AdapterTensors:
    config = chosen.folder.config
    if config.uses_dora and chosen.part.strength != 1:
        raise ConversionError("A DoRA adapter has no strength: its update cannot be scaled.")
    return read_adapter(chosen.weights, config, linear_shapes(linear_layers(base.model)))


def _apply(base: BaseModel, adapter: AdapterTensors, strength: float) -> list[tuple[str, Any]]:
    """Put mlx-lm's adapted layers into the model."""
    linears = linear_layers(base.model)
    layers: list[tuple[str, Any]] = []
    for path, factors in adapter.plan.modules.items():
        kind: Any = DoRALinear if factors.m else LoRALinear
        layer = kind.from_base(linears[path], r=factors.rank, scale=factors.scale * strength)
        layer.lora_a = adapter.a(factors).astype(mx.float32)
        layer.lora_b = adapter.b(factors).astype(mx.float32)
        if (m := adapter.m(factors)) is not None:
            layer.m = m.astype(mx.float32)
        layers.append((path, layer))
    _replace(base.model, dict(layers))
    return layers


def _fused(layer: Any, keep_quantized: bool, dtype: mx.Dtype) -> nn.Module:
    """A layer of the base's kind and type; what DoRA's float32 gain has touched is float32."""
    fused = cast(nn.Module, layer.fuse(dequantize=not keep_quantized))
    fused.apply(lambda x: x.astype(dtype) if mx.issubdtype(x.dtype, mx.floating) else x)
    return fused


def _replace(model: nn.Module, layers: dict[str, Any]) -> None:
    tree = cast(dict[str, Any], tree_unflatten(list(layers.items())))
    model.update_modules(tree)  # pyright: ignore[reportUnknownMemberType]


def _save(base: BaseModel, stage: Path, *, keep_quantized: bool) -> None:
    model, config = base.model, dict(base.config)
    if not keep_quantized:
        model = mlx_lm_utils.dequantize_model(model)
        for key in _QUANTIZATION_KEYS:
            config.pop(key, None)
    mlx_lm_utils.save_model(stage, model)
    mlx_lm_utils.save_config(config, stage / "config.json")  # pyright: ignore[reportUnknownMemberType]
    for file in base.path.iterdir():
        if file.is_file() and file.suffix not in _WEIGHTS and file.name not in _NOT_COPIED:
            shutil.copyfile(file, stage / file.name)


def _logits(base: BaseModel) -> mx.array:
    """(tokens, vocab_size), float32, for one prompt."""
    base.model.eval()
    ids = base.hf_tokenizer.encode(_SAMPLE, add_special_tokens=False)
    logits = cast(mx.array, cast(Any, base.model)(mx.array([ids])))[0].astype(mx.float32)
    mx.eval(logits)  # pyright: ignore[reportUnknownMemberType]
    return logits


def _lost(plain: mx.array, adapted: mx.array, fused: mx.array, dtype: mx.Dtype) -> float:
    """The self-check: how much of what the adapter does is gone in the fused model."""
    effect, error, size = (
        cast(float, mx.linalg.norm(difference).item())
        for difference in (adapted - plain, fused - adapted, adapted)
    )
    lost = error / effect if effect else 0.0
    if not error <= max(_MOST_LOST * effect, _ROUNDING[dtype] * size):  # so that NaN fails too
        raise ConversionError(
            f"The self-check failed: the fused model is off by {lost:.0%} of what the adapter "
            "does, lost in rounding, so nothing was kept; leave --keep-quantized out, or serve "
            "base and adapter as they are."
        )
    return lost


def _note(chosen: Chosen, base: BaseModel) -> str:
    recorded = chosen.folder.prompt_format
    digest = adapter_digest(chosen.folder.path, file_digest(chosen.weights))
    prompt = msgspec.json.encode(recorded).decode() if recorded else "none"
    return (
        f"# {base.id} with {chosen.part.spelling}\n\n"
        f"The base model `{base.id}` with the LoRA adapter `{chosen.part.spelling}` fused in at "
        f"strength {chosen.part.strength:g}, written by `verse adapters fuse`.\n\n"
        f"- digest of the adapter: {digest}\n"
        f"- prompt format it was trained in: {prompt}\n"
    )
