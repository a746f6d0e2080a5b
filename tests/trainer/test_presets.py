"""The configurations that ship."""

import re
from pathlib import Path

import msgspec
import pytest

from tests.trainer.architectures import (
    ARCHITECTURES,
    keep_the_blocks_class,
    peak_of_a_step,
    tiny_model,
)
from verse_trainer.command import read_config
from verse_trainer.config import TrainConfig, find_config, preset_names, presets_folder
from verse_trainer.errors import ConfigError
from verse_trainer.memory import Architecture, Quantization, caches_layers, estimate
from verse_trainer.preflight import describe, gigabytes

PROJECT = Path(__file__).parents[2]
NAMES = [
    "qwen-32b",
    "qwen2.5-14b-8bit",
    "qwen2.5-32b-4bit",
    "qwen2.5-32b-8bit",
    "qwen2.5-7b-4bit",
    "qwen2.5-7b-8bit",
    "qwen2.5-7b-bf16",
    "qwen3-8b",
    "verse-tiny",
]
ROW_TOKENS = 256


def config_of(name: str) -> TrainConfig:
    return read_config(name, {}).config


def architecture_of(model: str) -> Architecture:
    """By the name of the model, as the hub has it."""
    folder = PROJECT / model
    if folder.is_dir():
        return msgspec.json.decode((folder / "config.json").read_bytes(), type=Architecture)
    size = re.fullmatch(r"mlx-community/(Qwen[\d.]+-\d+B)(-Instruct)?-(bf16|8bit|4bit)", model)
    assert size is not None
    bits = {"bf16": None, "8bit": 8, "4bit": 4}[size[3]]
    quantization = Quantization(bits=bits) if bits else None
    return msgspec.structs.replace(ARCHITECTURES[size[1].lower()], quantization=quantization)


def test_every_preset_of_the_list_is_there() -> None:
    assert preset_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_settles_without_a_word(name: str) -> None:
    settled = read_config(name, {})
    assert settled.notices == ()
    assert settled.config.mask_prompt
    assert settled.config.prompt_format == "chat"


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_trains_the_base_it_is_named_after(name: str) -> None:
    model = config_of(name).model.lower()
    family, size, *_ = name.split("-")
    assert family in model
    assert f"-{size}" in model
    if name.endswith(("bit", "bf16")):
        assert model.endswith(name.rpartition("-")[2])


@pytest.mark.parametrize("name", NAMES)
def test_the_expected_memory_is_what_the_estimate_says(name: str) -> None:
    text = find_config(name).read_text("utf-8")
    reported = re.search(
        r"^# Expected memory: (.*) at the peak, with rows of up to (\d+) ", text, re.MULTILINE
    )
    assert reported is not None
    assert int(reported[2]) == ROW_TOKENS
    config = config_of(name)
    architecture = architecture_of(config.model)
    has_cache = caches_layers(architecture, config)
    expected = estimate(architecture, config, ROW_TOKENS, has_cache=has_cache)
    assert reported[1] == gigabytes(expected.total_bytes)


@pytest.mark.parametrize("name", NAMES)
def test_rate_and_scale_of_a_preset_are_usual(name: str) -> None:
    from tests.trainer.test_preflight import FORECAST

    is_tiny = name == "verse-tiny"
    num_parameters = 10_000_000 if is_tiny else 7_600_000_000
    forecast = msgspec.structs.replace(FORECAST, total_parameters=num_parameters)
    words = dict(describe(forecast, config_of(name)))
    expected = "0.002: usual" if is_tiny else "0.0002: usual"
    assert expected in words["rate x scale"]
    assert "with bias correction" in words["optimizer"]
    assert "cosine decay after" in words["schedule"]


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_builds_and_steps_on_a_small_model_of_its_kind(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(name)
    architecture = architecture_of(config.model)
    bits = architecture.quantization.bits if architecture.quantization else None
    model, _ = tiny_model(architecture.model_type, bits)
    keep_the_blocks_class(model, monkeypatch)
    assert peak_of_a_step(model, config, row_tokens=12) > 0
    trained = [path for path, _ in model.named_modules() if path.endswith("down_proj")]
    assert len(trained) == 3


def test_c_takes_a_path_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_config("verse-tiny") == presets_folder() / "verse-tiny.yaml"
    assert find_config("verse-tiny.yaml") == presets_folder() / "verse-tiny.yaml"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "verse-tiny").write_text("batch_size: 9")
    assert config_of("verse-tiny").batch_size == 9


def test_a_name_that_is_none_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no preset 'qwen2.5-7b-8b'; did you mean qwen2.5-7b-8"):
        find_config("qwen2.5-7b-8b")
    with pytest.raises(ConfigError, match=r"the presets are qwen-32b, qwen2\.5-14b-8bit, "):
        find_config("/nowhere/x.yaml")
