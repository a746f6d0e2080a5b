"""What a file of adapter weights holds, told by names and shapes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tests.server.engine.fixtures_files import (
    BASE_MODULES,
    DOWN_PROJ,
    Q_PROJ,
    RANK,
    Arrays,
    mlx_config,
    mlx_tensors,
    numbers,
    peft_tensors,
    write_weights,
)
from verse.adapter_config import AdapterConfig, decode_adapter_config
from verse.adapter_files import (
    AdapterFileError,
    AdapterPlan,
    ModuleFactors,
    ModuleShape,
    plan_adapter,
)
from verse_server.engine.adapters.weights import AdapterWeights, load_weights

LORA = {"lora_parameters": {"rank": RANK, "scale": 2.0}}
DORA = {**LORA, "fine_tune_type": "dora"}
PEFT = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8}
PEFT_DORA = {**PEFT, "use_dora": True}


def decoded(config: dict[str, Any]) -> AdapterConfig:
    return decode_adapter_config(json.dumps(config).encode())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "adapters.safetensors"


def plan(file: Path, tensors: Arrays, config: dict[str, Any]) -> AdapterPlan:
    write_weights(file, tensors)
    return plan_adapter(file, decoded(config), BASE_MODULES)


def refusal(file: Path, tensors: Arrays, config: dict[str, Any]) -> str:
    with pytest.raises(AdapterFileError) as caught:
        plan(file, tensors, config)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def test_an_mlx_lm_file_is_matched_module_by_module(file: Path) -> None:
    planned = plan(file, mlx_tensors(), LORA)
    assert planned.modules.keys() == BASE_MODULES.keys()
    assert planned.modules[Q_PROJ] == ModuleFactors(
        a=f"{Q_PROJ}.lora_a",
        b=f"{Q_PROJ}.lora_b",
        rank=RANK,
        scale=2.0,
        transposed=False,
    )
    assert (planned.format, planned.rank, planned.scale) == ("mlx-lora", RANK, 2.0)
    assert not planned.uses_dora


def test_an_adapter_may_change_some_modules_only(file: Path) -> None:
    some = {Q_PROJ: BASE_MODULES[Q_PROJ]}
    assert plan(file, mlx_tensors(some), LORA).modules.keys() == {Q_PROJ}


def test_a_dora_file_has_a_magnitude_for_each_module(file: Path) -> None:
    planned = plan(file, mlx_tensors(dora=True), DORA)
    assert {factors.m for factors in planned.modules.values()} == {f"{m}.m" for m in BASE_MODULES}
    assert planned.format == "mlx-dora"
    assert planned.uses_dora


@pytest.mark.parametrize("prefix", ["base_model.model.", ""])
@pytest.mark.parametrize("adapter", ["", ".default", ".徐志摩"])
def test_peft_names_come_with_and_without_prefix_and_adapter_name(
    file: Path, prefix: str, adapter: str
) -> None:
    planned = plan(file, peft_tensors(prefix=prefix, adapter=adapter), PEFT)
    assert planned.modules.keys() == BASE_MODULES.keys()
    assert planned.modules[DOWN_PROJ] == ModuleFactors(
        a=f"{prefix}{DOWN_PROJ}.lora_A{adapter}.weight",
        b=f"{prefix}{DOWN_PROJ}.lora_B{adapter}.weight",
        rank=RANK,
        scale=2.0,
        transposed=True,
    )
    assert planned.format == "peft-lora"


@pytest.mark.parametrize("ending", ["", ".default", ".weight", ".default.weight"])
def test_every_spelling_of_peft_s_magnitude_is_known(file: Path, ending: str) -> None:
    tensors = {
        (f"{name}{ending}" if name.endswith("vector") else name): array
        for name, array in peft_tensors(dora=True).items()
    }
    planned = plan(file, tensors, PEFT_DORA)
    assert planned.modules[Q_PROJ].m == f"base_model.model.{Q_PROJ}.lora_magnitude_vector{ending}"
    assert planned.format == "peft-dora"


def test_patterns_of_peft_reach_the_modules(file: Path) -> None:
    small = {name: shape for name, shape in BASE_MODULES.items() if "q_proj" in name}
    tensors = {**peft_tensors(), **peft_tensors(small, rank=2)}
    config = {**PEFT, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"layers\.1\..*": -80}}
    planned = plan(file, tensors, config)
    assert {m: (f.rank, f.scale) for m, f in planned.modules.items()} == {
        "model.layers.0.self_attn.q_proj": (2, 4.0),
        "model.layers.0.mlp.down_proj": (4, 2.0),
        "model.layers.1.self_attn.q_proj": (2, -40.0),
        "model.layers.1.mlp.down_proj": (4, -20.0),
    }
    assert (planned.rank, planned.scale) == (4, -40.0)


def test_a_square_module_is_read_by_its_names_never_by_its_shapes(file: Path) -> None:
    """With in = out = rank every shape fits every reading; only the dialect tells them apart."""
    square = {"proj": ModuleShape(4, 4)}
    write_weights(file, mlx_tensors(square))
    read = plan_adapter(file, decoded(LORA), square)
    assert read.modules["proj"].transposed is False
    write_weights(file, peft_tensors(square))
    read = plan_adapter(file, decoded(PEFT), square)
    assert read.modules["proj"].transposed is True
    assert read.modules["proj"].a.endswith("lora_A.weight")


def test_factors_stored_the_wrong_way_round_are_refused(file: Path) -> None:
    turned = {name: np.ascontiguousarray(array.T) for name, array in mlx_tensors().items()}
    assert "has shape" in refusal(file, turned, LORA)


def test_the_base_an_adapter_names_is_recorded(file: Path) -> None:
    assert plan(file, mlx_tensors(), mlx_config()).recorded_base == "models/verse-tiny"
    assert plan(file, mlx_tensors(), LORA).recorded_base is None


def test_half_precision_and_metadata_make_no_difference(file: Path) -> None:
    halves = {name: array.astype(np.float16) for name, array in mlx_tensors().items()}
    save_file(halves, file, metadata={"format": "mlx"})
    planned = plan_adapter(file, decoded(LORA), BASE_MODULES)
    assert planned.modules.keys() == BASE_MODULES.keys()


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1, -1000])
def test_a_truncated_file_is_refused(file: Path, kept: int) -> None:
    write_weights(file, mlx_tensors())
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(
        AdapterFileError, match=r"^adapters\.safetensors is not a whole safetensors"
    ):
        plan_adapter(file, decoded(LORA), BASE_MODULES)


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 1000,
        b"\0" * 1000,
        b"\xff" * 1000,
        b"PK\x03\x04 an npz by another name",
        b"\x80\x04\x95 a pickle by another name",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 100\n",
        b"<!doctype html><title>404</title>",
    ],
)
def test_what_is_no_safetensors_file_is_refused(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    with pytest.raises(AdapterFileError, match="is not a whole safetensors"):
        plan_adapter(file, decoded(LORA), BASE_MODULES)


def test_a_file_that_is_not_there_or_is_a_folder_is_refused(file: Path) -> None:
    with pytest.raises(AdapterFileError, match="is not a whole safetensors"):
        plan_adapter(file, decoded(LORA), BASE_MODULES)
    file.mkdir()
    with pytest.raises(AdapterFileError, match="is not a whole safetensors"):
        plan_adapter(file, decoded(LORA), BASE_MODULES)


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(place=st.integers(0, 900), byte=st.integers(0, 255))
def test_a_flipped_byte_in_the_header_is_a_refusal_or_nothing(
    file: Path, place: int, byte: int
) -> None:
    write_weights(file, mlx_tensors())
    data = bytearray(file.read_bytes())
    data[place] = byte
    file.write_bytes(data)
    try:
        planned = plan_adapter(file, decoded(LORA), BASE_MODULES)
    except AdapterFileError:
        return
    assert planned.modules.keys() == BASE_MODULES.keys()


def test_a_file_without_tensors_would_change_nothing(file: Path) -> None:
    assert "no LoRA factors, so it would change nothing" in refusal(file, {}, LORA)


@pytest.mark.parametrize(
    "stranger",
    [
        f"{Q_PROJ}.weight",
        f"{Q_PROJ}.bias",
        f"{Q_PROJ}.lora_a.extra",
        f"{Q_PROJ}.lora_c",
        "lora_a",
        "m",
        "model.embed_tokens.lora_embedding_A",
        f"base_model.model.{Q_PROJ}.lora_A.weight",
    ],
)
def test_a_tensor_that_is_no_factor_is_named(file: Path, stranger: str) -> None:
    message = refusal(file, {**mlx_tensors(), stranger: numbers(4)}, LORA)
    assert f"tensors that are no LoRA factors of a Linear layer ({stranger})" in message


@pytest.mark.parametrize(
    "stranger",
    [
        "base_model.model.lm_head.weight",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        f"base_model.model.{Q_PROJ}.lora_B.bias",
        f"base_model.model.{Q_PROJ}.base_layer.bias",
        f"base_model.model.{Q_PROJ}.lora_a",
        "base_model.model.score.modules_to_save.default.weight",
    ],
)
def test_a_peft_tensor_that_is_no_factor_is_named(file: Path, stranger: str) -> None:
    message = refusal(file, {**peft_tensors(), stranger: numbers(16)}, PEFT)
    assert f"no LoRA factors of a Linear layer ({stranger})" in message


def test_of_many_strangers_some_are_named_and_the_rest_counted(file: Path) -> None:
    strangers = {f"model.layers.{n}.weight": numbers(1) for n in range(10)}
    assert "and 7 more)" in refusal(file, strangers, LORA)


@pytest.mark.parametrize("missing", ["lora_a", "lora_b"])
def test_a_module_with_one_factor_is_refused(file: Path, missing: str) -> None:
    tensors = mlx_tensors(dora=True)
    del tensors[f"{Q_PROJ}.{missing}"]
    assert f"{Q_PROJ} has only one of its two factors" in refusal(file, tensors, DORA)


def test_a_magnitude_alone_is_refused(file: Path) -> None:
    assert "factors" in refusal(file, {f"{Q_PROJ}.m": numbers(16)}, DORA)


@pytest.mark.parametrize("second", [".other.weight", ".weight", ".default"])
def test_one_factor_under_two_names_is_refused(file: Path, second: str) -> None:
    name = f"base_model.model.{Q_PROJ}.lora_A"
    tensors = {**peft_tensors(adapter=".default"), f"{name}{second}": numbers(RANK, 16)}
    message = refusal(file, tensors, PEFT)
    assert "the same factor twice" in message
    assert f"{name}{second}" in message


def test_the_same_module_with_and_without_prefix_is_refused(file: Path) -> None:
    tensors = {**peft_tensors(), **peft_tensors(prefix="")}
    assert "the same factor twice" in refusal(file, tensors, PEFT)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lora_a", (RANK, 24)),
        ("lora_a", (24, RANK + 1)),
        ("lora_a", (23, RANK)),
        ("lora_a", (24, RANK, 1)),
        ("lora_a", ()),
        ("lora_b", (16, RANK)),
        ("lora_b", (RANK, 17)),
        ("lora_b", (0, 16)),
        ("m", (24,)),
        ("m", (1, 16)),
    ],
)
def test_a_factor_of_another_shape_is_refused(
    file: Path, name: str, shape: tuple[int, ...]
) -> None:
    tensors = {**mlx_tensors(dora=True), f"{DOWN_PROJ}.{name}": numbers(*shape)}
    message = refusal(file, tensors, DORA)
    assert f"{DOWN_PROJ}.{name} has shape {shape}" in message
    assert "trained on another base or with another rank" in message


@pytest.mark.parametrize(("tensors", "config"), [(mlx_tensors(), LORA), (peft_tensors(), PEFT)])
def test_a_rank_other_than_the_recorded_one_is_refused(
    file: Path, tensors: Arrays, config: dict[str, Any]
) -> None:
    other = {**config, "lora_parameters": {"rank": 8, "scale": 2.0}, "r": 8}
    assert "the recorded rank 8 need" in refusal(file, tensors, other)


@pytest.mark.parametrize(
    ("tensors", "config", "has"),
    [
        (mlx_tensors(), DORA, "no"),
        (mlx_tensors(dora=True), LORA, "a"),
        (peft_tensors(), PEFT_DORA, "no"),
        (peft_tensors(dora=True), PEFT, "a"),
    ],
    ids=["mlx without", "mlx with", "peft without", "peft with"],
)
def test_a_magnitude_that_contradicts_the_configuration_is_refused(
    file: Path, tensors: Arrays, config: dict[str, Any], has: str
) -> None:
    assert f"has {has} DoRA magnitude, which adapter_config.json" in refusal(file, tensors, config)


def test_a_module_without_its_magnitude_is_refused(file: Path) -> None:
    tensors = mlx_tensors(dora=True)
    del tensors[f"{Q_PROJ}.m"]
    assert f"{Q_PROJ} has no DoRA magnitude" in refusal(file, tensors, DORA)


def test_an_adapter_none_of_whose_modules_is_in_the_base_is_refused(file: Path) -> None:
    others = {f"transformer.h.{n}.attn": ModuleShape(16, 16) for n in range(5)}
    message = refusal(file, mlx_tensors(others), LORA)
    assert "none of its 5 modules is a Linear layer of this base" in message
    assert "transformer.h.0.attn" in message
    assert "and 2 more" in message


def test_an_adapter_with_a_layer_too_many_is_refused_not_cut(file: Path) -> None:
    more = {**BASE_MODULES, "model.layers.2.self_attn.q_proj": ModuleShape(16, 16)}
    message = refusal(file, mlx_tensors(more), LORA)
    assert "1 of its 5 modules is no Linear layer of this base (model.layers.2." in message


def test_the_dialects_do_not_read_each_other_s_files(file: Path) -> None:
    assert "no LoRA factors" in refusal(file, peft_tensors(), LORA)
    assert "no LoRA factors" in refusal(file, mlx_tensors(), PEFT)


# The tensors themselves.


def load(file: Path, tensors: Arrays, config: dict[str, Any], dtype: mx.Dtype) -> AdapterWeights:
    planned = plan(file, tensors, config)
    linears: dict[str, nn.Module] = {
        name: nn.Linear(shape.in_dims, shape.out_dims) for name, shape in BASE_MODULES.items()
    }
    return load_weights(file.read_bytes(), planned, linears, dtype)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("leaf", ["lora_a", "lora_b", "m"])
def test_a_number_that_is_none_is_refused_before_it_reaches_other_rows(
    file: Path, leaf: str, value: float
) -> None:
    tensors = mlx_tensors(dora=True)
    tensors[f"{Q_PROJ}.{leaf}"].flat[0] = value
    with pytest.raises(AdapterFileError, match="NaN or infinity"):
        load(file, tensors, DORA, mx.float32)


def test_a_number_too_large_for_the_base_s_type_is_refused(file: Path) -> None:
    tensors = mlx_tensors()
    tensors[f"{Q_PROJ}.lora_b"].flat[0] = 1e6
    assert load(file, tensors, LORA, mx.float32).delta_norm > 1e6
    with pytest.raises(AdapterFileError, match="NaN or infinity"):
        load(file, tensors, LORA, mx.float16)


def test_an_update_of_zeros_is_read_and_its_norm_is_zero(file: Path) -> None:
    zeros = {name: np.zeros_like(array) for name, array in mlx_tensors().items()}
    assert load(file, zeros, LORA, mx.float32).delta_norm == 0


REWRITER = """
import sys, threading, time
from pathlib import Path
from verse.adapter_config import decode_adapter_config
from verse.adapter_files import AdapterFileError, ModuleShape, plan_adapter

file, whole = Path(sys.argv[1]), Path(sys.argv[1]).read_bytes()
config = decode_adapter_config(b'{"lora_parameters": {"rank": 2, "scale": 1.0}}')
end = time.monotonic() + 1.0

def rewrite():
    while time.monotonic() < end:
        with file.open("wb") as stream:  # in place, as mlx does it
            stream.write(whole)

threading.Thread(target=rewrite).start()
outcomes = set()
while time.monotonic() < end:
    try:
        outcomes.add(len(plan_adapter(file, config, {"layer": ModuleShape(3000, 5000)}).modules))
    except AdapterFileError:
        outcomes.add("torn")
assert outcomes <= {1, "torn"}, outcomes
"""


def test_a_file_rewritten_while_it_is_read_is_whole_or_refused_and_never_the_end_of_us(
    tmp_path: Path,
) -> None:
    """A mapped file that is cut off kills who touches it; hence a process of its own."""
    file = tmp_path / "adapters.safetensors"
    a, b = np.zeros((3000, 2), np.float32), np.zeros((2, 5000), np.float32)
    save_file({"layer.lora_a": a, "layer.lora_b": b}, file)
    ran = subprocess.run(
        [sys.executable, "-c", REWRITER, str(file)], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
