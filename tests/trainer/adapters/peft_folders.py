"""PEFT folders written by hand, and both libraries' formulas in plain numpy. No code of ours."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

Array = np.ndarray[Any, np.dtype[np.float32]]
SHAPES = {
    # (in, out); the square one can only be told by its names.
    "self_attn.q_proj": (16, 16),
    "self_attn.v_proj": (16, 8),
    "mlp.down_proj": (24, 16),
}
MODULES = {
    f"model.layers.{layer}.{key}": shape for layer in range(2) for key, shape in SHAPES.items()
}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "fraction": {"lora_alpha": 3},
    "rslora": {"use_rslora": True},
    "alpha pattern": {"alpha_pattern": {"v_proj": 6}},
    "rank pattern": {"rank_pattern": {"q_proj": 2}},
    "larger rank pattern": {"rank_pattern": {"layers.1.mlp.down_proj": 7}},
    "all patterns, rslora": {
        "rank_pattern": {"q_proj": 2, "down_proj": 7},
        "alpha_pattern": {"v_proj": 6, "q_proj": 1},
        "use_rslora": True,
    },
    "dora": {"use_dora": True},
    "dora, patterns": {
        "use_dora": True,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"v_proj": 6},
    },
}


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def write_peft(
    folder: Path, modules: Mapping[str, tuple[int, int]] = MODULES, **config: Any
) -> Path:
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "someone/base",
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "target_modules": sorted({module.rsplit(".", 1)[-1] for module in modules}),
        "rank_pattern": {},
        "alpha_pattern": {},
        "bias": "none",
        **config,
    }
    tensors: dict[str, Array] = {}
    for place, (module, (num_in, num_out)) in enumerate(modules.items()):
        rank = pattern(config["rank_pattern"], module, config["r"])
        path = f"base_model.model.{module}"
        tensors[f"{path}.lora_A.weight"] = numbers(rank, num_in, seed=place)
        tensors[f"{path}.lora_B.weight"] = numbers(num_out, rank, seed=place)
        if config.get("use_dora"):
            tensors[f"{path}.lora_magnitude_vector"] = 1 + np.abs(numbers(num_out, seed=place))
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    return next((value for key, value in patterns.items() if module.endswith("." + key)), default)


def peft_output(folder: Path, module: str, x: Array, weight: Array) -> Array:
    """peft/tuners/lora/layer.py and dora.py, for a layer without bias."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors: dict[str, Array] = load_file(folder / "adapter_model.safetensors")
    path = f"base_model.model.{module}"
    a, b = tensors[f"{path}.lora_A.weight"], tensors[f"{path}.lora_B.weight"]
    rank = pattern(config["rank_pattern"], module, config["r"])
    alpha = pattern(config["alpha_pattern"], module, config["lora_alpha"])
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    output = x @ weight.T + x @ a.T @ b.T * scaling
    if not config.get("use_dora"):
        return output
    norm = np.linalg.norm(weight + scaling * b @ a, axis=1)
    return output * tensors[f"{path}.lora_magnitude_vector"] / norm


def mlx_output(folder: Path, module: str, x: Array, weight: Array) -> Array:
    """mlx_lm/tuner/lora.py and dora.py, for a layer without bias."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors: dict[str, Array] = load_file(folder / "adapters.safetensors")
    a, b = tensors[f"{module}.lora_a"], tensors[f"{module}.lora_b"]
    scale = config["lora_parameters"]["scale"]
    output = x @ weight.T + scale * (x @ a @ b)
    if config["fine_tune_type"] != "dora":
        return output
    return output * tensors[f"{module}.m"] / np.linalg.norm(weight + (scale * a @ b).T, axis=1)


def layer(module: str) -> tuple[Array, Array]:
    """An input (3, in) and a weight (out, in) for a module."""
    num_in, num_out = MODULES[module]
    return numbers(3, num_in, seed=7), numbers(num_out, num_in, seed=8)
