"""Adapter folders written with numpy alone, for a made-up base of two kinds of layers."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from verse.adapter_files import ModuleShape
from verse.model_spelling import AdapterPart
from verse_server.engine.adapters.registry import AdapterRegistry
from verse_server.engine.errors import AdapterIncompatibleError, ModelNotFoundError

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
LONG_AGO = 1_600_000_000
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


def cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def age(folder: Path) -> None:
    """As if the last write had been long ago."""
    for path in (*folder.iterdir(), folder):
        os.utime(path, (LONG_AGO, LONG_AGO))


# Questions to a registry.


def names(registry: AdapterRegistry) -> list[str]:
    return [info.id for info in registry.models()]


def digest(registry: AdapterRegistry, name: str, checkpoint: Any = None) -> str:
    return registry.version(AdapterPart(name, checkpoint)).digest


def not_found(registry: AdapterRegistry, name: str, checkpoint: Any = None) -> ModelNotFoundError:
    with pytest.raises(ModelNotFoundError) as caught:
        registry.version(AdapterPart(name, checkpoint))
    return caught.value


def refusal(registry: AdapterRegistry, name: str, checkpoint: Any = None) -> str:
    with pytest.raises(AdapterIncompatibleError) as caught:
        registry.version(AdapterPart(name, checkpoint))
    assert "\n" not in str(caught.value)
    return caught.value.reason


def checkpoint(folder: Path, step: int, seed: int) -> Path:
    return write_weights(folder / f"{step:07d}_adapters.safetensors", mlx_tensors(seed=seed))


def make_root(path: Path) -> Path:
    """An adapters folder with two adapters and a file."""
    write_adapter(path / "xuzhimo", seed=1)
    write_adapter(path / "hushi", seed=2)
    (path / "README.md").write_text("not an adapter")
    return path
