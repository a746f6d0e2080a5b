"""Adapter folders written with numpy alone, for a made-up base of two kinds of layers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from verse_server.engine.adapter_files import ModuleShape

Q_PROJ = "model.layers.0.self_attn.q_proj"
DOWN_PROJ = "model.layers.0.mlp.down_proj"
BASE_MODULES = {
    f"model.layers.{layer}.{name}": shape
    for layer in range(2)
    for name, shape in {
        "self_attn.q_proj": ModuleShape(16, 16),  # square: only names tell a from b
        "mlp.down_proj": ModuleShape(24, 16),
    }.items()
}
RANK = 4
Arrays = Mapping[str, np.ndarray[Any, np.dtype[np.float32]]]


def numbers(*shape: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def mlx_tensors(
    modules: Mapping[str, ModuleShape] = BASE_MODULES,
    *,
    rank: int = RANK,
    dora: bool = False,
    seed: int = 0,
) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    tensors: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = {}
    for module, shape in modules.items():
        tensors[f"{module}.lora_a"] = numbers(shape.in_dims, rank, seed=seed)
        tensors[f"{module}.lora_b"] = numbers(rank, shape.out_dims, seed=seed)
        if dora:
            tensors[f"{module}.m"] = numbers(shape.out_dims, seed=seed)
    return tensors


def peft_tensors(
    modules: Mapping[str, ModuleShape] = BASE_MODULES,
    *,
    rank: int = RANK,
    dora: bool = False,
    prefix: str = "base_model.model.",
    adapter: str = "",
) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """`adapter` as in `.default`: PEFT writes it into checkpoints of the whole model."""
    tensors: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = {}
    for module, shape in modules.items():
        tensors[f"{prefix}{module}.lora_A{adapter}.weight"] = numbers(rank, shape.in_dims)
        tensors[f"{prefix}{module}.lora_B{adapter}.weight"] = numbers(shape.out_dims, rank)
        if dora:
            tensors[f"{prefix}{module}.lora_magnitude_vector{adapter}"] = numbers(shape.out_dims)
    return tensors


def mlx_config(**changes: Any) -> dict[str, Any]:
    config = {
        "fine_tune_type": "lora",
        "num_layers": 2,
        "lora_parameters": {"rank": RANK, "scale": 2.0, "dropout": 0.0},
        "model": "models/verse-tiny",
    }
    return {**config, **changes}


def write_adapter(
    folder: Path,
    *,
    tensors: Arrays | None = None,
    config: Mapping[str, Any] | None = None,
    prompt: str | None = '{"format": "chat", "system": "写一首诗"}',
    seed: int = 0,
) -> Path:
    """A whole mlx-lm folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder / "adapters.safetensors", tensors or mlx_tensors(seed=seed))
    (folder / "adapter_config.json").write_text(json.dumps(config or mlx_config()))
    if prompt is not None:
        (folder / "prompt.json").write_text(prompt)
    return folder


def write_weights(file: Path, tensors: Arrays) -> Path:
    save_file(dict(tensors), file)
    return file
