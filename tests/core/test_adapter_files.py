"""Which types, modules and tensors of an adapter's file are taken; shapes are in server/engine."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from tests.server.engine.fixtures_files import (
    BASE_MODULES,
    DOWN_PROJ,
    Q_PROJ,
    RANK,
    mlx_tensors,
    numbers,
    peft_tensors,
    write_weights,
)
from verse.adapter_config import decode_adapter_config
from verse.adapter_files import AdapterFileError, AdapterPlan, ModuleShape, plan_adapter

PEFT = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8}
MLX = {"lora_parameters": {"rank": RANK, "scale": 2.0}}
LAYER_1 = "model.layers.1"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


def plan(file: Path, tensors: Any, base: Any = BASE_MODULES, **config: Any) -> AdapterPlan:
    write_weights(file, tensors)
    return judge(file, base, **config)


def judge(file: Path, base: Any = BASE_MODULES, **config: Any) -> AdapterPlan:
    decoded = decode_adapter_config(json.dumps({**PEFT, **config}).encode())
    return plan_adapter(file, decoded, base)


def with_dtype(file: Path, dtype: str, item_bytes: int) -> None:
    """A whole file whose tensors are said to be of a type that numpy may not have."""
    header: dict[str, Any] = {}
    end = 0
    for name, array in peft_tensors().items():
        size = array.size * item_bytes
        entry = {"dtype": dtype, "shape": array.shape, "data_offsets": [end, end + size]}
        header[name], end = entry, end + size
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


@pytest.mark.parametrize(("dtype", "item_bytes"), [("F16", 2), ("BF16", 2), ("F32", 4)])
def test_numbers_of_16_and_32_bits_are_taken(file: Path, dtype: str, item_bytes: int) -> None:
    with_dtype(file, dtype, item_bytes)
    assert judge(file).modules.keys() == BASE_MODULES.keys()


@pytest.mark.parametrize(
    ("dtype", "item_bytes"),
    [
        *(("F8_E4M3", 1), ("F8_E5M2", 1), ("F8_E8M0", 1), ("I8", 1), ("U8", 1), ("BOOL", 1)),
        *(("I16", 2), ("I32", 4), ("I64", 8), ("C64", 8), ("F64", 8), ("F4", 1)),
    ],
)
@pytest.mark.parametrize("base", [BASE_MODULES, None])
def test_every_other_type_is_refused_in_one_sentence(
    file: Path, dtype: str, item_bytes: int, base: Any
) -> None:
    with_dtype(file, dtype, item_bytes)
    with pytest.raises(AdapterFileError) as caught:
        judge(file, base)
    assert f"is stored as {dtype}, and only F16, BF16, F32 can be used; " in str(caught.value)
    assert ("verse adapters import" in str(caught.value)) == (dtype == "F64")


def test_float64_is_taken_by_who_converts_it(file: Path) -> None:
    file.write_bytes(save({n: a.astype(np.float64) for n, a in peft_tensors().items()}))
    config = decode_adapter_config(json.dumps(PEFT).encode())
    assert plan_adapter(file, config, None, allows_float64=True).rank == RANK


@pytest.mark.parametrize(
    "name",
    [
        f"base_model.model.{Q_PROJ}.lora_velora_embed",
        f"base_model.model.{Q_PROJ}.lora_velora_embed.default",
        f"base_model.model.{Q_PROJ}.lora_monteclora_sampler.std_prior",
        f"{Q_PROJ}.lora_monteclora_sampler.default.gaussian_var_prior",
    ],
)
def test_what_only_training_uses_is_ignored_by_name_and_noted(file: Path, name: str) -> None:
    planned = plan(file, {**peft_tensors(), name: numbers(16)})
    assert planned.modules.keys() == BASE_MODULES.keys()
    assert planned.notes == (f"1 tensor that only training uses is ignored ({name})",)


def test_what_only_training_uses_is_no_adapter_alone(file: Path) -> None:
    with pytest.raises(AdapterFileError, match="holds no LoRA factors"):
        plan(file, {f"{Q_PROJ}.lora_velora_embed": numbers(16)})


@pytest.mark.parametrize("name", [f"{Q_PROJ}.lora_diag", f"{Q_PROJ}.lora_velora", "lora_velora_x"])
def test_a_name_that_only_looks_like_it_is_refused(file: Path, name: str) -> None:
    with pytest.raises(AdapterFileError, match="no LoRA factors of a Linear layer"):
        plan(file, {**peft_tensors(), name: numbers(16)})


@pytest.mark.parametrize(
    ("config", "modules"),
    [
        ({}, "0q 0d 1q 1d"),
        ({"target_modules": None}, "0q 0d 1q 1d"),
        ({"target_modules": ["q_proj", "down_proj"]}, "0q 0d 1q 1d"),
        ({"target_modules": ["q_proj"]}, "0q 1q"),
        ({"target_modules": ["self_attn.q_proj", "proj"]}, "0q 1q"),
        ({"target_modules": [Q_PROJ]}, "0q"),
        ({"target_modules": r".*\.1\..*proj"}, "1q 1d"),
        ({"target_modules": "all-linear"}, "0q 0d 1q 1d"),
        ({"layers_to_transform": []}, "0q 0d 1q 1d"),
        ({"layers_to_transform": [1]}, "1q 1d"),
        ({"layers_to_transform": 0}, "0q 0d"),
        ({"layers_to_transform": [0, 1, 2]}, "0q 0d 1q 1d"),
        ({"layers_to_transform": [1], "layers_pattern": "layers"}, "1q 1d"),
        ({"layers_to_transform": [1], "layers_pattern": ["h", "layers"]}, "1q 1d"),
        ({"layers_to_transform": [1], "layers_pattern": []}, "1q 1d"),
        ({"layers_to_transform": [1], "target_modules": ["q_proj"]}, "1q"),
        # A module named in full, and a regular expression, know no layers in PEFT.
        ({"layers_to_transform": [1], "target_modules": [Q_PROJ]}, "0q"),
        ({"layers_to_transform": [1], "target_modules": ".*q_proj"}, "0q 1q"),
        ({"exclude_modules": ["down_proj"]}, "0q 1q"),
        ({"exclude_modules": r"model\.layers\.0.*"}, "1q 1d"),
    ],
)
@pytest.mark.parametrize("base", [BASE_MODULES, None])
def test_only_the_modules_that_peft_would_adapt_are_adapted(
    file: Path, config: dict[str, Any], modules: str, base: Any
) -> None:
    planned = plan(file, peft_tensors(), base, **config)
    short = {path: f"{path.split('.')[2]}{path.split('.')[-1][0]}" for path in BASE_MODULES}
    assert {short[module] for module in planned.modules} == set(modules.split())
    missing = 4 - len(modules.split())
    assert [
        note.startswith(f"{missing} of its modules are left out") for note in planned.notes
    ] == ([True] if missing else [])


@pytest.mark.parametrize(
    "config",
    [
        {"layers_to_transform": [7]},
        {"layers_to_transform": [0], "layers_pattern": "h"},
        {"target_modules": ["v_proj"]},
    ],
)
def test_a_configuration_that_names_none_of_the_modules_is_refused(
    file: Path, config: dict[str, Any]
) -> None:
    with pytest.raises(AdapterFileError, match="names none of its 4 modules"):
        plan(file, peft_tensors(), **config)


@pytest.mark.parametrize("key", ["target_modules", "exclude_modules", "layers_pattern"])
def test_a_pattern_that_is_no_regular_expression_is_refused_with_the_folder(key: str) -> None:
    config = decode_adapter_config(json.dumps({**PEFT, key: "["}).encode())
    assert config.refusal() == "the pattern '[' in adapter_config.json is not a regular expression."


def test_only_the_modules_that_mlx_lm_would_adapt_are_adapted(file: Path) -> None:
    write_weights(file, mlx_tensors())
    for keys, modules in (
        (None, {*BASE_MODULES}),
        (["self_attn.q_proj", "mlp.down_proj"], {*BASE_MODULES}),
        (["self_attn.q_proj"], {Q_PROJ, f"{LAYER_1}.self_attn.q_proj"}),
        ([DOWN_PROJ], {DOWN_PROJ}),
    ):
        parameters = {**MLX["lora_parameters"], "keys": keys}
        config = decode_adapter_config(json.dumps({"lora_parameters": parameters}).encode())
        planned = plan_adapter(file, config, BASE_MODULES)
        assert planned.modules.keys() == modules
        assert bool(planned.notes) == (len(modules) < 4)


@pytest.mark.parametrize("base", [BASE_MODULES, None])
def test_an_embedding_is_told_by_its_name_also_where_no_base_is_at_hand(
    file: Path, base: Any
) -> None:
    tensors = mlx_tensors({**BASE_MODULES, "model.embed_tokens": ModuleShape(100, 16)})
    write_weights(file, tensors)
    with pytest.raises(AdapterFileError, match=r"model\.embed_tokens is an embedding"):
        plan_adapter(file, decode_adapter_config(json.dumps(MLX).encode()), base)
