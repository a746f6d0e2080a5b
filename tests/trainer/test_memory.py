"""The memory estimate, against mlx's own numbers."""

from typing import Any

import msgspec
import pytest

from tests.trainer.architectures import (
    ARCHITECTURES,
    arrays_of,
    keep_the_blocks_class,
    peak_of_a_step,
    tiny_model,
)
from verse_trainer.config import LoraConfig, TrainConfig
from verse_trainer.memory import (
    Architecture,
    MemoryEstimate,
    Quantization,
    calibrated,
    estimate,
    num_adapter_parameters,
    read_architecture,
)


@pytest.mark.parametrize(
    ("name", "billions"),
    [("qwen2.5-7b", 7.62), ("qwen2.5-14b", 14.77), ("qwen2.5-32b", 32.76), ("qwen3-8b", 8.19)],
)
def test_the_models_have_as_many_weights_as_their_makers_say(name: str, billions: float) -> None:
    assert ARCHITECTURES[name].num_weights() / 1e9 == pytest.approx(billions, abs=0.01)


@pytest.mark.parametrize(("bits", "gigabytes"), [(8, 34.8), (4, 18.4)])
def test_packed_weights_carry_their_scales(bits: int, gigabytes: float) -> None:
    packed = msgspec.structs.replace(
        ARCHITECTURES["qwen2.5-32b"], quantization=Quantization(bits=bits)
    )
    assert estimate(packed, TrainConfig(), 256).weights_bytes / 1e9 == pytest.approx(
        gigabytes, abs=0.05
    )


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3"])
@pytest.mark.parametrize("bits", [None, 8, 4])
def test_weights_and_adapter_are_counted_as_mlx_has_them(model_type: str, bits: int | None) -> None:
    from mlx_lm.tuner.utils import linear_to_lora_layers

    model, architecture = tiny_model(model_type, bits)
    real = sum(array.nbytes for array in arrays_of(model.parameters()) if array.ndim > 1)
    estimated = estimate(architecture, TrainConfig(), 10)
    assert estimated.weights_bytes == pytest.approx(real, rel=1e-6)

    model.freeze()
    keys = ["self_attn.q_proj", "mlp.down_proj"]
    for layers, chosen in ((1, None), (-1, None), (2, keys)):
        fresh, _ = tiny_model(model_type, bits)
        fresh.freeze()
        lora: dict[str, Any] = {"rank": 3, "scale": 1.0, "dropout": 0.0, "keys": chosen}
        linear_to_lora_layers(fresh, layers, lora)
        trained = sum(array.size for array in arrays_of(fresh.trainable_parameters()))
        assert num_adapter_parameters(architecture, 3, layers, chosen) == trained


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "bits", "options"),
    [
        ("qwen2", None, {}),
        ("qwen2", None, {"num_layers": 1}),
        ("qwen2", None, {"lora_parameters": LoraConfig(dropout=0.0), "batch_size": 4}),
        ("qwen3", None, {"grad_checkpoint": True}),
        ("qwen3", 8, {"batch_size": 1}),
    ],
)
def test_the_peak_of_a_real_step_is_foretold(
    model_type: str,
    bits: int | None,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row_tokens, config = 64, TrainConfig(**options)
    model, architecture = tiny_model(model_type, bits, large=True)
    keep_the_blocks_class(model, monkeypatch)
    peak = peak_of_a_step(model, config, row_tokens)
    estimated = estimate(architecture, config, row_tokens).total_bytes
    assert estimated == pytest.approx(peak, rel=0.25)


def test_a_measured_step_corrects_what_depends_on_the_batch_only() -> None:
    parts: dict[str, int] = {"weights_bytes": 1000, "adapter_bytes": 100}
    now = MemoryEstimate(**parts, activations_bytes=300, logits_bytes=100)
    half = MemoryEstimate(**parts, activations_bytes=150, logits_bytes=50)
    assert calibrated(now, now, 1900) == 1900
    assert calibrated(half, now, 1900) == 1500
    assert calibrated(half, now, 0) == 1100


def test_other_kinds_of_model_are_not_guessed() -> None:
    assert read_architecture({"model_type": "mamba", "hidden_size": 10}) is None


def test_a_model_that_also_sees_keeps_its_numbers_one_level_down() -> None:
    inner = msgspec.to_builtins(ARCHITECTURES["qwen3-8b"])
    found = read_architecture({"model_type": "qwen3_vl", "text_config": inner})
    assert isinstance(found, Architecture)
    assert found.hidden_size == 4096
