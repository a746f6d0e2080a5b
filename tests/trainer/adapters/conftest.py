"""Adapter folders of both dialects, with modules that are square and modules that are not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from verse import openblas

openblas.preload()

ROOT = Path(__file__).parents[3]
VERSE_TINY = ROOT / "models" / "verse-tiny"
SHAPES = {
    "self_attn.q_proj": (320, 320),
    "mlp.gate_proj": (320, 896),
    "mlp.down_proj": (896, 320),
}
"""(in, out) of some of verse-tiny's modules."""
Make = Callable[..., Path]


def module_paths(layers: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    return {f"model.layers.{n}.{key}": SHAPES[key] for n in layers for key in SHAPES}


@pytest.fixture
def make_mlx(tmp_path: Path) -> Make:
    """Random weights under mlx-lm's names."""

    def make(
        name: str = "mine",
        *,
        rank: int = 4,
        scale: float = 2.5,
        layers: tuple[int, ...] = (0, 5),
        dora: bool = False,
        seed: int = 1,
        **config: Any,
    ) -> Path:
        random = np.random.default_rng(seed)
        tensors: dict[str, Any] = {}
        for path, (size_in, size_out) in module_paths(layers).items():
            tensors[f"{path}.lora_a"] = random.standard_normal((size_in, rank)).astype("f4") * 0.05
            tensors[f"{path}.lora_b"] = random.standard_normal((rank, size_out)).astype("f4") * 0.05
            if dora:
                tensors[f"{path}.m"] = random.random(size_out).astype("f4")
        folder = tmp_path / "adapters" / name
        folder.mkdir(parents=True)
        save_file(tensors, folder / "adapters.safetensors")
        record = {
            "fine_tune_type": "dora" if dora else "lora",
            "num_layers": 6,
            "lora_parameters": {"rank": rank, "scale": scale, "dropout": 0.0, "keys": list(SHAPES)},
            "model": "verse-tiny",
            **config,
        }
        (folder / "adapter_config.json").write_text(json.dumps(record))
        return folder

    return make


@pytest.fixture
def make_peft(tmp_path: Path) -> Make:
    """Random weights under PEFT's names, some modules with a rank and an alpha of their own."""

    def make(
        *,
        use_rslora: bool = False,
        patterns: bool = False,
        dora: bool = False,
        layers: tuple[int, ...] = (0, 5),
        **config: Any,
    ) -> Path:
        random = np.random.default_rng(2)
        tensors: dict[str, Any] = {}
        for path, (size_in, size_out) in module_paths(layers).items():
            rank = 6 if patterns and path.endswith("down_proj") else 4
            tensors[f"base_model.model.{path}.lora_A.weight"] = (
                random.standard_normal((rank, size_in)).astype("f4") * 0.05
            )
            tensors[f"base_model.model.{path}.lora_B.weight"] = (
                random.standard_normal((size_out, rank)).astype("f4") * 0.05
            )
            if dora:
                tensors[f"base_model.model.{path}.lora_magnitude_vector"] = random.random(
                    size_out
                ).astype("f4")
        folder = tmp_path / "peft"
        folder.mkdir()
        save_file(tensors, folder / "adapter_model.safetensors")
        record = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": "verse-tiny",
            "r": 4,
            "lora_alpha": 10,
            "use_rslora": use_rslora,
            "use_dora": dora,
            "rank_pattern": {"down_proj": 6} if patterns else {},
            "alpha_pattern": {r"layers\.5\.mlp\.gate_proj": 3, "down_proj": 20} if patterns else {},
            "target_modules": ["q_proj", "gate_proj", "down_proj"],
            "bias": "none",
            **config,
        }
        (folder / "adapter_config.json").write_text(json.dumps(record))
        return folder

    return make
