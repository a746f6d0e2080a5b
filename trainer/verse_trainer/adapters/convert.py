"""mlx-lm's adapter folders and PEFT's, each made from the other, and checked with numbers.

mlx-lm has one rank and one scale for all modules, PEFT may have others for some: ranks are padded
with zeros and what is left of a scale goes into `lora_b`. Source of PEFT's layout: its
checkpoint-format guide.
"""

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import msgspec
import numpy as np

from verse.adapter_config import AdapterConfig, MlxConfig
from verse.adapter_folder import (
    CONFIG_FILE,
    MLX_WEIGHTS_FILE,
    PEFT_WEIGHTS_FILE,
    PROMPT_FILE,
    read_adapter_folder,
)
from verse.prompt import PromptFormat
from verse_trainer.adapters.factors import Array, Factors, read_factors
from verse_trainer.errors import ConversionError

Dialect = Literal["mlx", "peft"]

_TOLERANCE = 1e-4
"""Relative; both sides are float32, so only the order of the sums differs."""
_LAYER = re.compile(r"(?:.*\.)?layers\.(?P<number>\d+)\.(?P<key>.+)")
_CHECK_ROWS = 4


def convert(
    weights: Path,
    config: AdapterConfig,
    prompt_format: PromptFormat | None,
    output: Path,
    to: Dialect,
) -> float:
    """Write the same adapter in a dialect to a new folder.

    Returns:
        The largest relative difference of any module's update on random input.

    Raises:
        ConversionError: it cannot be converted, or the folder exists already, or the check fails;
            nothing is left behind then.
    """
    if output.exists():
        raise ConversionError(f"{output} exists already; choose another name.")
    modules = read_factors(weights, config)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        written = _write_peft if to == "peft" else _write_mlx
        written(temporary, modules, config)
        if prompt_format is not None:
            _write_json(temporary / PROMPT_FILE, prompt_format)
        difference = self_check(modules, temporary)
        temporary.chmod(0o755)
        temporary.rename(output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return difference


def self_check(modules: Mapping[str, Factors], folder: Path) -> float:
    """Compare updates on random input with those a folder was written for.

    Returns:
        The largest relative difference.

    Raises:
        ConversionError: it is more than rounding, or modules differ.
    """
    written = read_adapter_folder(folder)
    assert written.published is not None
    others = read_factors(written.published, written.config)
    if others.keys() != modules.keys():
        raise ConversionError(f"The check failed: {folder} has other modules than it was made of.")
    differences = [_difference(modules[name], others[name]) for name in modules]
    worst = max(differences)
    if not all(difference <= _TOLERANCE for difference in differences):  # nor is NaN
        raise ConversionError(
            f"The check failed: updates differ by {worst:.1e} on random input; nothing was written."
        )
    return worst


def _difference(one: Factors, other: Factors) -> float:
    x = np.random.default_rng(0).standard_normal((_CHECK_ROWS, one.a.shape[0]), dtype=np.float32)
    before, after = (f.scale * ((x @ f.a) @ f.b) for f in (one, other))
    if one.m is not None:
        if other.m is None:
            return float("inf")
        before, after = np.append(before, one.m), np.append(after, other.m)
    size = float(np.abs(before).max())
    return float(np.abs(before - after).max()) / size if size else float(np.abs(after).max())


def _write_mlx(folder: Path, modules: Mapping[str, Factors], config: AdapterConfig) -> None:
    rank = max(factors.rank for factors in modules.values())
    scale = next(iter(modules.values())).scale or 1.0
    tensors: dict[str, Array] = {}
    for name, factors in modules.items():
        missing = rank - factors.rank
        ratio = np.float32(factors.scale / scale)
        tensors[f"{name}.lora_a"] = np.pad(factors.a, ((0, 0), (0, missing)))
        tensors[f"{name}.lora_b"] = np.pad(factors.b * ratio, ((0, missing), (0, 0)))
        if factors.m is not None:
            tensors[f"{name}.m"] = factors.m
    save_tensors(folder / MLX_WEIGHTS_FILE, tensors)
    # mlx-lm counts num_layers from the end, and -1 means all: a layer without tensors stays as it
    # is, because lora_b begins at zero.
    record: dict[str, Any] = {
        "fine_tune_type": "dora" if config.uses_dora else "lora",
        "num_layers": -1,
        "lora_parameters": {
            "rank": rank,
            "scale": scale,
            "dropout": 0.0,
            "keys": sorted({_key(name) for name in modules}),
        },
    }
    if config.recorded_base:
        record["model"] = config.recorded_base
    if isinstance(config, MlxConfig) and config.best_step is not None:
        record["best_step"] = config.best_step
    _write_json(folder / CONFIG_FILE, record)


def _write_peft(folder: Path, modules: Mapping[str, Factors], config: AdapterConfig) -> None:
    suffixes = {"lora_A.weight": "a", "lora_B.weight": "b", "lora_magnitude_vector": "m"}
    tensors: dict[str, Array] = {}
    for name, factors in modules.items():
        for suffix, attribute in suffixes.items():
            array: Array | None = getattr(factors, attribute)
            if array is not None:
                tensors[f"base_model.model.{name}.{suffix}"] = array.T
    save_tensors(folder / PEFT_WEIGHTS_FILE, tensors)
    first = next(iter(modules.values()))
    others = {n: f for n, f in modules.items() if (f.rank, f.scale) != (first.rank, first.scale)}
    record: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": config.recorded_base,
        "r": first.rank,
        "lora_alpha": first.scale * first.rank,
        "rank_pattern": {re.escape(name): f.rank for name, f in others.items()},
        "alpha_pattern": {re.escape(name): f.scale * f.rank for name, f in others.items()},
        "lora_dropout": 0.0,
        "target_modules": sorted({_key(name).rsplit(".", 1)[-1] for name in modules}),
        "layers_to_transform": _layers(modules),
        "use_dora": config.uses_dora,
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
    }
    _write_json(folder / CONFIG_FILE, record)


def _key(module: str) -> str:
    """The module's path inside its block, as mlx-lm's `keys` have it."""
    match = _LAYER.fullmatch(module)
    return match["key"] if match else module


def _layers(modules: Mapping[str, Factors]) -> list[int] | None:
    matches = [_LAYER.fullmatch(name) for name in modules]
    if not all(matches):
        return None  # a module outside the blocks: PEFT would not find it
    return sorted({int(match["number"]) for match in matches if match})


def save_tensors(file: Path, tensors: Mapping[str, Array]) -> None:
    """Write a safetensors file that transformers reads too."""
    arrays = {name: mx.array(np.ascontiguousarray(array)) for name, array in tensors.items()}
    # Without this mark transformers takes the file for one of another framework.
    metadata = {"format": "pt"}
    mx.save_safetensors(str(file), arrays, metadata)  # pyright: ignore[reportUnknownMemberType]


def _write_json(file: Path, record: object) -> None:
    file.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
