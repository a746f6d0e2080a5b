"""Which weights are trained."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from tests.trainer.runs import Runs, fresh, read_weights
from verse_trainer import lora
from verse_trainer.config import LoraConfig, TrainConfig
from verse_trainer.errors import ConfigError, TrainingError

ALL = (
    "mlp.down_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "self_attn.k_proj",
    "self_attn.o_proj",
    "self_attn.q_proj",
    "self_attn.v_proj",
)


def adapted(runs: Runs, keys: tuple[str, ...] | None = None, **changes: Any) -> Any:
    parameters = LoraConfig(rank=4, keys=keys)
    model = fresh(runs.base).model
    return model, lora.adapt(model, TrainConfig(lora_parameters=parameters, **changes))


def test_without_keys_every_linear_layer_of_the_blocks_is_adapted(runs: Runs) -> None:
    model, keys = adapted(runs)
    assert keys == ALL
    assert len(lora.trainable(model)) == 2 * 2 * len(ALL)


@pytest.mark.parametrize(
    ("num_layers", "blocks"), [(-1, {0, 1}), (0, {0, 1}), (2, {0, 1}), (1, {1})]
)
def test_blocks_count_from_the_end_and_all_is_minus_one_or_zero(
    runs: Runs, num_layers: int, blocks: set[int]
) -> None:
    model, _ = adapted(runs, num_layers=num_layers)
    assert {int(name.split(".")[2]) for name in lora.trainable(model)} == blocks


def test_more_layers_than_there_are_is_an_error(runs: Runs) -> None:
    with pytest.raises(ConfigError, match="num_layers is 3, but the model has 2"):
        adapted(runs, num_layers=3)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("q_proj", r"did you mean self_attn\.q_proj\?"),
        ("attention.q_proj", r"did you mean self_attn\.q_proj\?"),
        ("self_attn.q_prj", r"did you mean self_attn\.q_proj\?"),
        ("zzz", r"there are mlp\.down_proj, "),
    ],
)
def test_a_key_that_no_layer_has_is_an_error_with_the_nearest(
    runs: Runs, key: str, hint: str
) -> None:
    with pytest.raises(ConfigError, match=hint) as caught:
        adapted(runs, ("self_attn.v_proj", key))
    assert repr(key) in str(caught.value)


def test_keys_choose_the_modules(runs: Runs) -> None:
    model, keys = adapted(runs, ("self_attn.q_proj", "mlp.up_proj"))
    assert keys == ("self_attn.q_proj", "mlp.up_proj")
    assert len(lora.trainable(model)) == 8


def test_a_module_outside_the_blocks_is_named_in_full(runs: Runs) -> None:
    model, _ = adapted(runs, ("self_attn.q_proj", "model.embed_tokens"))
    assert "model.embed_tokens.lora_a" in lora.trainable(model)


def test_no_keys_at_all_is_an_error(runs: Runs) -> None:
    with pytest.raises(ConfigError, match="keys is empty"):
        adapted(runs, ())


def test_a_model_whose_blocks_have_no_linear_layers_is_refused() -> None:
    class Odd(nn.Module):
        layers = (nn.RMSNorm(4),)

    with pytest.raises(ConfigError, match="no linear layers"):
        lora.adapt(Odd(), TrainConfig())


def test_dora_has_a_magnitude_too(runs: Runs) -> None:
    model, _ = adapted(runs, fine_tune_type="dora")
    assert "model.layers.0.mlp.up_proj.m" in lora.trainable(model)


def test_a_full_fine_tune_trains_whole_blocks_and_nothing_else(runs: Runs) -> None:
    model, keys = adapted(runs, fine_tune_type="full", num_layers=1)
    assert keys == ()
    names = set(lora.trainable(model))
    assert "model.layers.1.mlp.up_proj.weight" in names
    assert all(name.startswith("model.layers.1.") for name in names)


def test_the_first_weights_follow_from_the_seed(runs: Runs) -> None:
    def first(seed: int) -> Any:
        mx.random.uniform(shape=(3,))  # what happened before makes no difference
        model, _ = adapted(runs, seed=seed)
        return lora.trainable(model)["model.layers.0.mlp.up_proj.lora_a"].tolist()

    assert first(1) == first(1) != first(2)


def test_parameters_of_a_quantized_base_count_as_what_they_stand_for(runs: Runs) -> None:
    model = fresh(runs.base).model
    plain = lora.count_base_parameters(model)
    nn.quantize(model, group_size=32, bits=4, class_predicate=lambda p, m: "up_proj" in p)
    assert lora.count_base_parameters(model) == plain


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_factors_fit_a_base_of_any_number_of_bits(runs: Runs, kind: Any, bits: int) -> None:
    model: Any = fresh(runs.base).model
    nn.quantize(model, group_size=32, bits=bits, class_predicate=lambda p, m: "up_proj" in p)
    config = TrainConfig(
        fine_tune_type=kind, lora_parameters=LoraConfig(rank=4, keys=("mlp.up_proj",))
    )
    lora.adapt(model, config)
    factors = lora.trainable(model)
    assert factors["model.layers.1.mlp.up_proj.lora_a"].shape == (32, 4)
    assert mx.all(mx.isfinite(model(mx.array([[5, 6, 7]])))).item()


def test_dora_of_a_quantized_embedding_is_refused_with_its_bits(runs: Runs) -> None:
    model = fresh(runs.base).model
    nn.quantize(model, group_size=32, bits=6, class_predicate=lambda p, m: "embed" in p)
    parameters = LoraConfig(rank=4, keys=("model.embed_tokens",))
    with pytest.raises(ConfigError, match=r"embed_tokens is an embedding of 6 bits"):
        lora.adapt(model, TrainConfig(fine_tune_type="dora", lora_parameters=parameters))


def saved(runs: Runs, file: Path, **changes: Any) -> Path:
    model, _ = adapted(runs, **changes)
    mx.save_safetensors(str(file), lora.trainable(model))
    return file


def test_it_starts_from_the_weights_of_another_adapter(runs: Runs, tmp_path: Path) -> None:
    file = saved(runs, tmp_path / "start.safetensors", seed=5)
    model, _ = adapted(runs, seed=6)
    lora.load_start(model, file)
    name = "model.layers.1.mlp.up_proj.lora_a"
    assert mx.array_equal(lora.trainable(model)[name], read_weights(file)[name])


def test_an_adapter_of_another_base_is_refused_with_the_tensor(runs: Runs, tmp_path: Path) -> None:
    file = saved(runs, tmp_path / "start.safetensors")
    model, _ = adapted(runs, num_layers=1)
    with pytest.raises(TrainingError, match=r"model\.layers\.0\.\S+, which this run does not"):
        lora.load_start(model, file)
    other = fresh(runs.base).model
    lora.adapt(other, TrainConfig(lora_parameters=LoraConfig(rank=8)))
    with pytest.raises(TrainingError, match=r"lora_\w of shape \(\d+, \d+\), and this run needs"):
        lora.load_start(other, file)


@pytest.mark.parametrize("content", [b"", b"not tensors"])
def test_a_file_that_holds_no_tensors_is_refused(
    runs: Runs, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "start.safetensors"
    file.write_bytes(content)
    model, _ = adapted(runs)
    with pytest.raises(TrainingError, match="cannot be read"):
        lora.load_start(model, file)
