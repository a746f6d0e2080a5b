"""The same update in the other dialect.

    mlx-lm   y += scale * (x @ a) @ b            a (in, rank), b (rank, out)
    PEFT     y += alpha / rank * x @ A.T @ B.T   A (rank, in), B (out, rank)

with alpha / sqrt(rank) where PEFT uses rsLoRA. mlx-lm has one rank and one scale for all modules,
so ranks are padded with zeros and what a module's scale differs by goes into its b. DoRA's
magnitude is the same in both.
"""

import mlx.core as mx
import msgspec

from verse_trainer.adapters.factors import Adapter, Tensors
from verse_trainer.adapters.module_names import block_keys, peft_targets
from verse_trainer.errors import ConversionError

_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embedding", "embeddings")


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


def to_mlx(adapter: Adapter, *, dropout: float, base: str | None) -> tuple[Tensors, MlxFile]:
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


def to_peft(adapter: Adapter, *, dropout: float, base: str | None) -> tuple[Tensors, PeftFile]:
    """An adapter's tensors and configuration for PEFT.

    Raises:
        ConversionError: it adapts an embedding, which PEFT stores in another way.
    """
    plan = adapter.plan
    tensors: Tensors = {}
    for module, factors in plan.modules.items():
        if module.rsplit(".", 1)[-1] in _EMBEDDINGS:
            raise ConversionError(f"{module} is an embedding; only Linear layers can be exported.")
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
