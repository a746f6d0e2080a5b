"""What is said of a base that is not here, and what is refused before it is loaded."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.trainer.architectures import ARCHITECTURES
from verse_trainer.command import read_config
from verse_trainer.config import TrainConfig
from verse_trainer.errors import TrainingError
from verse_trainer.memory import estimate
from verse_trainer.model_shapes import is_here, known_shape, shape_of
from verse_trainer.preflight import check_memory, describe_estimate, estimate_by_shape

GB = 10**9


@pytest.mark.parametrize("name", ["qwen2.5-7b", "qwen2.5-14b", "qwen2.5-32b", "qwen3-8b"])
def test_shapes_are_those_of_the_configurations(name: str) -> None:
    found, expected = known_shape(f"mlx-community/{name}-8bit"), ARCHITECTURES[name]
    assert found is not None
    assert found.quantization is not None
    assert found.quantization.bits == 8
    assert found.num_weights() == expected.num_weights()
    assert found.projections() == expected.projections()


@pytest.mark.parametrize(
    ("model", "billions"),
    [
        ("Qwen/Qwen2.5-Coder-0.5B-Instruct", 0.49),
        ("Qwen/Qwen2.5-1.5B", 1.54),
        ("mlx-community/Qwen2.5-3B-Instruct-4bit", 3.09),
        ("Qwen/Qwen2.5-72B-Instruct", 72.7),
        ("Qwen/Qwen3-0.6B", 0.6),
        ("Qwen/Qwen3-4B", 4.02),
        ("mlx-community/Qwen3-32B-4bit", 32.76),
    ],
)
def test_they_have_as_many_weights_as_their_makers_say(model: str, billions: float) -> None:
    found = known_shape(model)
    assert found is not None
    assert found.num_weights() / 1e9 == pytest.approx(billions, rel=0.01)


def test_other_names_are_not_guessed() -> None:
    for model in ("mistralai/Mistral-7B", "Qwen/Qwen2.5-99B", "models/verse-tiny", "mine"):
        assert known_shape(model) is None


def test_a_folder_says_its_own_shape(tmp_path: Path) -> None:
    config = msgspec.to_builtins(ARCHITECTURES["qwen2.5-7b"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert shape_of(str(tmp_path)) == ARCHITECTURES["qwen2.5-7b"]
    assert is_here(str(tmp_path))
    assert not is_here("somebody/of-whom-nothing-was-downloaded")


def test_a_dry_run_of_a_32b_tells_both_peaks_from_its_shapes() -> None:
    config = read_config("qwen-32b", {}).config
    shape = known_shape(config.model)
    assert shape is not None
    told = estimate_by_shape(shape, config, 100, 24 * GB)
    words = dict(describe_estimate(told))
    assert told.layer_cache.num_layers == 48
    assert "not on this machine" in words["base"]
    assert "48 frozen layers run once and keep 0.3 GB" in words["layer cache"]
    assert "12.5 GB with it (computed) and 38.2 GB without" in words["layer cache"]
    whole = msgspec.structs.replace(config, num_layers=-1)
    without = dict(describe_estimate(estimate_by_shape(shape, whole, 100, 24 * GB)))
    assert "it does not fit" in without["memory"]
    assert "All layers are trained" in without["layer cache"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"num_layers": 16}, r"9\.\d GB with a layer cache and 35\.\d GB without"),
        ({"num_layers": -1}, r"the adapter take 35\.\d GB, and this machine has 8\.0 GB"),
    ],
)
def test_what_fits_neither_way_is_refused_before_it_is_loaded(
    keys: dict[str, Any], words: str
) -> None:
    shape = known_shape("mlx-community/Qwen2.5-32B-Instruct-8bit")
    config = TrainConfig(model="mlx-community/Qwen2.5-32B-Instruct-8bit", **keys)
    with pytest.raises(TrainingError, match=words):
        check_memory(shape, config, 8 * GB)
    check_memory(shape, config, 64 * GB)
    check_memory(None, config, 1)


def test_the_pass_through_frozen_layers_counts_where_it_is_the_peak() -> None:
    shape = ARCHITECTURES["qwen2.5-32b"]
    config = TrainConfig(num_layers=1, batch_size=1)
    with_cache = estimate(shape, config, 1, has_cache=True)
    assert with_cache.caching_bytes > with_cache.activations_bytes + with_cache.logits_bytes
    assert with_cache.total_bytes == with_cache.fixed_bytes + with_cache.caching_bytes
