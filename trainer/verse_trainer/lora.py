"""Which weights of the base are trained: LoRA or DoRA factors by mlx-lm, or whole blocks."""

import math
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten  # pyright: ignore[reportUnknownVariableType]
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.utils import (
    linear_to_lora_layers,  # pyright: ignore[reportUnknownVariableType]
)

from verse.base_model import linear_shapes
from verse.terminal import counted
from verse_trainer.config import TrainConfig
from verse_trainer.data_parallel import DataParallel
from verse_trainer.errors import ConfigError, TrainingError

_ADAPTABLE = (
    nn.Linear,
    nn.QuantizedLinear,
    SwitchLinear,
    QuantizedSwitchLinear,
    nn.Embedding,
    nn.QuantizedEmbedding,
)
_SHOWN_NAMES = 12


def adapt(model: nn.Module, config: TrainConfig) -> tuple[str, ...]:
    """Freeze the base and put in what is trained, in place.

    Returns:
        The modules that were adapted, block-relative, as `lora_parameters.keys` names them; none
        for a full fine-tune.

    Raises:
        ConfigError: the model has fewer layers, or no module of a name.
    """
    blocks = trained_blocks(model, config.num_layers)
    if config.fine_tune_type == "full":
        model.freeze()
        for block in blocks:
            block.unfreeze()
        return ()
    keys = resolve_keys(config.lora_parameters.keys, model, blocks)
    mx.random.seed(config.seed)
    model.freeze()
    parameters = {**lora_parameters(config), "keys": keys}
    if config.fine_tune_type == "dora":
        _refuse_quantized_embeddings(model, keys)
    try:
        linear_to_lora_layers(model, len(blocks), parameters, config.fine_tune_type == "dora")
    except ValueError as error:  # mlx-lm has no DoRA for some kinds of layers
        raise ConfigError(f"fine_tune_type {config.fine_tune_type}: {error}") from error
    _widen_factors(model)
    return keys


def _refuse_quantized_embeddings(model: nn.Module, keys: Iterable[str]) -> None:
    """Of their packed weights mlx-lm takes the norms as they lie there, without a word."""
    modules = cast(list[tuple[str, nn.Module]], model.named_modules())
    for name, module in modules:
        if name in keys and isinstance(module, nn.QuantizedEmbedding):
            raise ConfigError(
                f"fine_tune_type dora: {name} is an embedding of {module.bits} bits, for which "
                "mlx-lm has no DoRA; leave it out of lora_parameters.keys, or train with lora."
            )


def _widen_factors(model: nn.Module) -> None:
    """Give DoRA on a base of 3, 5 or 6 bits factors for all inputs.

    mlx-lm multiplies the packed width by 32 // bits, which is right for 2, 4 and 8 bits alone.
    """
    for layer in cast(list[Any], model.modules()):
        if isinstance(layer, DoRALinear):
            adapted = cast(Any, layer)
            in_dims = linear_shapes({"": adapted.linear})[""].in_dims
            if adapted.lora_a.shape[0] != in_dims:
                bound, rank = 1 / math.sqrt(in_dims), adapted.lora_a.shape[1]
                adapted.lora_a = mx.random.uniform(-bound, bound, (in_dims, rank))


def lora_parameters(config: TrainConfig) -> dict[str, Any]:
    """Rank, scale and dropout, as mlx-lm wants them."""
    lora = config.lora_parameters
    return {"rank": lora.rank, "scale": lora.scale, "dropout": lora.dropout}


def resolve_keys(
    keys: tuple[str, ...] | None, model: nn.Module, blocks: Iterable[nn.Module]
) -> tuple[str, ...]:
    """The modules to adapt; every name must be one.

    Raises:
        ConfigError: a name that no block has, which mlx-lm would train nothing for.
    """
    in_blocks = {name for block in blocks for name in _adaptable(block)}
    if not in_blocks:
        raise ConfigError("The model's blocks have no linear layers to adapt.")
    if keys is None:
        return tuple(sorted(in_blocks))
    outside = {name for name in _adaptable(model) if ".layers." not in name}
    for key in keys:
        if key not in in_blocks | outside:
            raise ConfigError(_unknown_key(key, sorted(in_blocks) + sorted(outside)))
    if not keys:
        raise ConfigError("lora_parameters.keys is empty; leave it out to adapt every layer.")
    return keys


def trainable(model: nn.Module) -> dict[str, mx.array]:
    """The weights that are trained, by their path."""
    return _flat(model.trainable_parameters())


def take_from_first(model: nn.Module, parallel: DataParallel) -> None:
    """Give the model of every rank the trained weights of rank 0's."""
    if not parallel.is_alone:
        weights = parallel.arrays_from_first(trainable(model))
        model.load_weights(list(weights.items()), strict=False)


def count_parameters(arrays: dict[str, mx.array]) -> int:
    """Numbers in all of them."""
    return sum(array.size for array in arrays.values())


def count_base_parameters(model: nn.Module) -> int:
    """Numbers in the model, packed ones counted as what they stand for."""
    modules = cast(list[Any], model.modules())
    packed = sum(m.weight.size * 32 // m.bits - m.weight.size for m in modules if "scales" in m)
    parameters = _flat(model.parameters())
    quantization = (".scales", ".biases")
    return packed + sum(a.size for name, a in parameters.items() if not name.endswith(quantization))


def load_start(model: nn.Module, file: Path) -> None:
    """Start from the weights of an adapter, in place.

    Raises:
        TrainingError: it is no such file, or made for another base or configuration; names the
            tensor.
    """
    try:
        weights = cast(dict[str, mx.array], mx.load(str(file)))
    except (OSError, RuntimeError, ValueError) as error:
        raise TrainingError(f"resume_adapter_file {file} cannot be read: {error}.") from error
    expected = trainable(model)
    for name, array in weights.items():
        if name not in expected:
            raise TrainingError(
                f"{file} has {name}, which this run does not train; "
                "it is of another base, or num_layers, keys or fine_tune_type differ."
            )
        if array.shape != expected[name].shape:
            raise TrainingError(
                f"{file} has {name} of shape {array.shape}, and this run needs "
                f"{expected[name].shape}; it is of another base, or the rank differs."
            )
    model.load_weights(list(weights.items()), strict=False)


def _flat(tree: Any) -> dict[str, mx.array]:
    return dict(cast(list[tuple[str, mx.array]], tree_flatten(tree)))


def trained_blocks(model: nn.Module, num_layers: int) -> list[nn.Module]:
    """The last `num_layers` blocks; all for 0 and -1, as in mlx-lm.

    Raises:
        ConfigError: there are fewer.
    """
    blocks = cast(list[nn.Module], cast(Any, model).layers)
    if num_layers > len(blocks):
        raise ConfigError(
            f"num_layers is {num_layers}, but the model has "
            f"{counted(len(blocks), 'layer')}; -1 means all."
        )
    return list(blocks[-num_layers:] if num_layers > 0 else blocks)


def _adaptable(module: nn.Module) -> list[str]:
    modules = cast(list[tuple[str, nn.Module]], module.named_modules())
    return [name for name, m in modules if hasattr(m, "to_lora") or isinstance(m, _ADAPTABLE)]


def _unknown_key(key: str, names: list[str]) -> str:
    same_leaf = [name for name in names if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    near = same_leaf or get_close_matches(key, names, n=1, cutoff=0.4)
    if near:
        hint = f"did you mean {near[0]}?"
    else:
        shown = names[:_SHOWN_NAMES]
        hint = f"there are {', '.join(shown)}{', …' if len(names) > len(shown) else '.'}"
    return f"lora_parameters.keys: no layer to train has a module {key!r}; {hint}"
