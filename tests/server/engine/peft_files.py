"""PEFT adapter folders, written from mlx-lm ones with plain numpy and no code of ours."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

Arrays = dict[str, np.ndarray[Any, np.dtype[np.float32]]]


def write_peft(
    mlx_folder: Path,
    folder: Path,
    *,
    lora_alpha: float,
    use_rslora: bool = False,
    alpha_pattern: dict[str, float] | None = None,
    rank_pattern: dict[str, int] | None = None,
) -> None:
    """The tensors of a mlx-lm adapter under PEFT's names, shapes and configuration."""
    weights: Arrays = load_file(mlx_folder / "adapters.safetensors")
    config = json.loads((mlx_folder / "adapter_config.json").read_text())
    renamed: Arrays = {}
    for name, array in weights.items():
        path, leaf = name.rsplit(".", 1)
        suffix = {
            "lora_a": "lora_A.weight",
            "lora_b": "lora_B.weight",
            "m": "lora_magnitude_vector",
        }[leaf]
        renamed[f"base_model.model.{path}.{suffix}"] = np.ascontiguousarray(array.T)
    folder.mkdir(parents=True)
    save_file(renamed, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "r": config["lora_parameters"]["rank"],
                "lora_alpha": lora_alpha,
                "use_rslora": use_rslora,
                "use_dora": config["fine_tune_type"] == "dora",
                "alpha_pattern": alpha_pattern or {},
                "rank_pattern": rank_pattern or {},
                "base_model_name_or_path": "tiny",
                "bias": "none",
                "target_modules": sorted({name.split(".")[-2] for name in weights}),
            }
        )
    )


def cut_rank(folder: Path, pattern: str, rank: int) -> None:
    """Give the modules of a PEFT folder whose path matches another rank."""
    file = folder / "adapter_model.safetensors"
    weights: Arrays = load_file(file)
    for name, array in weights.items():
        if re.search(pattern, name):
            cut = array[:rank] if "lora_A" in name else array[:, :rank]
            weights[name] = np.ascontiguousarray(cut)
    save_file(weights, file)


def as_mlx(peft_folder: Path, folder: Path, *, max_rank: int) -> Path:
    """The same update for mlx-lm: ranks padded with zeros, each module's own scale folded in."""
    config = json.loads((peft_folder / "adapter_config.json").read_text())
    peft: Arrays = load_file(peft_folder / "adapter_model.safetensors")
    weights: Arrays = {}
    for name, array in peft.items():
        path, leaf = re.fullmatch(
            r"base_model\.model\.(.+)\.(lora_[AB]\.weight|lora_magnitude_vector)", name
        ).groups()  # type: ignore[union-attr]
        rank = next(
            (r for key, r in config["rank_pattern"].items() if path.endswith(key)), config["r"]
        )
        alpha = next(
            (a for key, a in config["alpha_pattern"].items() if path.endswith(key)),
            config["lora_alpha"],
        )
        scale = alpha / (math.sqrt(rank) if config["use_rslora"] else rank)
        if leaf == "lora_magnitude_vector":
            weights[f"{path}.m"] = array
        elif leaf == "lora_A.weight":
            weights[f"{path}.lora_a"] = np.pad(array.T, ((0, 0), (0, max_rank - rank)))
        else:
            weights[f"{path}.lora_b"] = np.pad(array.T * scale, ((0, max_rank - rank), (0, 0)))
    folder.mkdir(parents=True)
    save_file(
        {k: np.ascontiguousarray(v) for k, v in weights.items()}, folder / "adapters.safetensors"
    )
    keys = sorted({name.split(".", 3)[3].rsplit(".", 1)[0] for name in weights})
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {
                "fine_tune_type": "dora" if config["use_dora"] else "lora",
                "num_layers": 2,
                "lora_parameters": {
                    "rank": max_rank,
                    "scale": 1.0,
                    "dropout": 0.0,
                    "keys": keys,
                },
            }
        )
    )
    return folder
