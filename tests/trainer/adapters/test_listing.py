"""`verse adapters list` and the server judge the same folders alike, and for the same reason."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.server.engine.fixtures_files import (
    BASE_MODULES,
    DOWN_PROJ,
    Q_PROJ,
    RANK,
    cut_in_half,
    mlx_config,
    mlx_tensors,
    numbers,
    peft_tensors,
    write_adapter,
    write_weights,
)
from verse.adapter_files import ModuleShape
from verse.model_spelling import AdapterPart
from verse_server.engine.adapters.registry import AdapterRegistry
from verse_server.engine.errors import AdapterIncompatibleError
from verse_trainer.adapters.facts import summarize
from verse_trainer.adapters.folders import entries

EMBEDDING = {"model.embed_tokens": ModuleShape(100, 16)}
MAGNITUDE = "base_model.model.{}.lora_magnitude_vector"
LEGACY_DORA = {
    "lora_layers": -1,
    "lora_parameters": {"rank": RANK, "alpha": 8, "dropout": 0.0, "scale": 2.0},
    "model": "verse-tiny",
    "use_dora": True,
}


def mlx(tensors: Any = None, **config: Any) -> Callable[[Path], object]:
    return lambda folder: write_adapter(folder, tensors=tensors, config=mlx_config(**config))


def peft(extra: Any = None, *, dora: bool = False, **config: Any) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        tensors = {**peft_tensors(dora=dora), **(extra or {})}
        write_weights(folder / "adapter_model.safetensors", tensors)
        written = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, **config}
        (folder / "adapter_config.json").write_text(json.dumps(written))

    return write


def cut(folder: Path) -> None:
    cut_in_half(write_adapter(folder) / "adapters.safetensors")


def unpublished(folder: Path) -> None:
    (write_adapter(folder) / "adapters.safetensors").rename(folder / "0000100_adapters.safetensors")


def unpublished_cut(folder: Path) -> None:
    unpublished(folder)
    cut_in_half(folder / "0000100_adapters.safetensors")


def legacy_dora(folder: Path) -> None:
    write_adapter(folder, tensors=mlx_tensors(dora=True), config=LEGACY_DORA)


def per_module(name: str, *shape: int) -> dict[str, Any]:
    return {f"base_model.model.{module}.{name}": numbers(*shape) for module in BASE_MODULES}


def in_float64() -> Any:
    return {name: array.astype(np.float64) for name, array in mlx_tensors().items()}


SERVED: dict[str, Callable[[Path], object]] = {
    "lora": mlx(),
    "dora": mlx(mlx_tensors(dora=True), fine_tune_type="dora"),
    "legacy dora": legacy_dora,
    "peft": peft(),
    "peft dora": peft(dora=True, use_dora=True),
    "checkpoints alone": unpublished,
    "VeLoRA": peft(per_module("lora_velora_embed", 8), velora_config={"num_groups": 2}),
    "MonteCLoRA": peft(
        {
            **per_module("lora_monteclora_sampler.std_prior", RANK),
            **per_module("lora_monteclora_sampler.gaussian_var_prior", RANK, RANK),
        },
        monteclora_config={"num_samples": 4},
    ),
    "some layers": peft(layers_to_transform=[1]),
}
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "embed_tokens": (mlx(mlx_tensors({**BASE_MODULES, **EMBEDDING})), "is an embedding"),
    "peft embed_tokens": (
        peft({"base_model.model.model.embed_tokens.lora_embedding_A": numbers(RANK, 100)}),
        "no LoRA factors of a Linear layer",
    ),
    "lm_head named": (peft(modules_to_save=["lm_head"]), "it uses modules_to_save"),
    "lm_head saved": (
        peft({"base_model.model.lm_head.weight": numbers(100, 16)}),
        "no LoRA factors of a Linear layer",
    ),
    "KaSA": (peft(per_module("lora_diag", RANK), kasa_config={"beta": 1e-4}), "uses kasa_config"),
    "early KaSA": (peft(per_module("lora_diag", RANK), use_kasa=True), "uses use_kasa"),
    "KaSA not named": (peft(per_module("lora_diag", RANK)), "no LoRA factors of a Linear layer"),
    "BD-LoRA": (
        peft(
            {f"base_model.model.{DOWN_PROJ}.lora_A.weight": numbers(RANK, 12)},
            use_bdlora={"nblocks": 2},
        ),
        "uses use_bdlora",
    ),
    "float64": (mlx(in_float64()), "is stored as F64"),
    "magnitude not named": (peft(dora=True), "which adapter_config.json contradicts"),
    "magnitude missing": (peft(use_dora=True), "which adapter_config.json contradicts"),
    "stray magnitude": (
        peft({MAGNITUDE.format(Q_PROJ): numbers(16)}),
        "which adapter_config.json contradicts",
    ),
    "no layer of it": (peft(layers_to_transform=[9]), "names none of its 4 modules"),
    "cut": (cut, "not a whole safetensors file"),
    "checkpoints alone, cut": (unpublished_cut, "not a whole safetensors file"),
}


def both(root: Path, write: Callable[[Path], object]) -> tuple[str | None, str | None]:
    """What the list and the server's registry say against one folder."""
    write(root / "mine")
    (listed,) = [summarize(entry) for entry in entries(root)]
    registry = AdapterRegistry(root, "verse-tiny", BASE_MODULES)
    step = "last" if write in (unpublished, unpublished_cut) else None
    try:
        registry.version(AdapterPart("mine", step))
    except AdapterIncompatibleError as error:
        assert registry.models() == []
        return listed.problem, error.reason
    assert registry.models() != []
    return listed.problem, None


@pytest.mark.parametrize("kind", SERVED)
def test_what_is_served_is_listed_as_sound(tmp_path: Path, kind: str) -> None:
    assert both(tmp_path, SERVED[kind]) == (None, None)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_listed_with_the_servers_reason(tmp_path: Path, kind: str) -> None:
    write, reason = REFUSED[kind]
    listed, refused = both(tmp_path, write)
    assert listed == refused
    assert reason in (listed or "")


@pytest.mark.parametrize("kind", ["VeLoRA", "some layers"])
def test_what_is_left_out_of_a_file_is_in_the_servers_report(tmp_path: Path, kind: str) -> None:
    SERVED[kind](tmp_path / "mine")
    registry = AdapterRegistry(tmp_path, "verse-tiny", BASE_MODULES)
    report = registry.model(AdapterPart("mine")).report
    assert report is not None
    assert any("lora_velora" in w or "left out" in w for w in report.warnings)
