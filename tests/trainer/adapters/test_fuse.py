"""A fused model writes what base and adapter together write."""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm import utils as mlx_lm_utils
from mlx_lm.tuner.utils import linear_to_lora_layers

from verse.base_model import load_base_model
from verse_trainer.adapters import fuse as fuse_module
from verse_trainer.adapters.folders import choose, parse_one
from verse_trainer.adapters.fuse import Fusion, fuse
from verse_trainer.adapters.transfer import export_folder
from verse_trainer.errors import ConversionError

ROOT = Path(__file__).parents[3]
VERSE_TINY = ROOT / "models" / "verse-tiny"
ADAPTERS = ROOT / "adapters"
IDS = mx.array([[5, 6, 7, 8, 200]])


@pytest.fixture(scope="module")
def float_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """verse-tiny in float32, where rounding hides nothing."""
    return rewritten(tmp_path_factory.mktemp("float") / "verse-tiny")


@pytest.fixture(scope="module")
def quantized_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rewritten(tmp_path_factory.mktemp("quantized") / "verse-tiny", bits=8)


def rewritten(folder: Path, bits: int | None = None) -> Path:
    model, config = mlx_lm_utils.load_model(VERSE_TINY)
    model.set_dtype(mx.float32)
    if bits:
        model, config = mlx_lm_utils.quantize_model(model, config, group_size=64, bits=bits)
    shutil.copytree(VERSE_TINY, folder, ignore=shutil.ignore_patterns("*.safetensors", "recipe"))
    mlx_lm_utils.save_model(folder, model)
    mlx_lm_utils.save_config(config, folder / "config.json")
    return folder


def logits(model: Path, adapter: Path | None = None) -> mx.array:
    """By plain mlx-lm."""
    loaded: Any = mlx_lm_utils.load(str(model), adapter_path=adapter and str(adapter))[0]
    return loaded(IDS).astype(mx.float32)


def share(difference: mx.array, of: mx.array) -> float:
    return cast(float, (mx.linalg.norm(difference) / mx.linalg.norm(of)).item())


def fused(
    spelling: str, model: Path, output: Path, root: Path = ADAPTERS, **options: Any
) -> Fusion:
    return fuse(choose(root, parse_one(spelling)), str(model), output, **options)


def dora_adapter(folder: Path, base: Path) -> Path:
    model: Any = mlx_lm_utils.load_model(base)[0]
    parameters = {
        "rank": 4,
        "scale": 2.0,
        "dropout": 0.0,
        "keys": ["self_attn.v_proj", "mlp.down_proj"],
    }
    linear_to_lora_layers(model, 2, parameters, use_dora=True)
    mx.random.seed(0)
    weights: dict[str, mx.array] = {}
    for name, array in cast(list[tuple[str, mx.array]], tree_flatten(model.parameters())):
        if name.endswith(("lora_a", "lora_b", ".m")):
            noise = mx.random.normal(array.shape)
            weights[name] = array * (1 + 0.2 * noise) if name.endswith(".m") else 0.3 * noise
    folder.mkdir(parents=True)
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    config = {"fine_tune_type": "dora", "num_layers": 2, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_a_fused_model_answers_as_base_and_adapter_do(tmp_path: Path, float_base: Path) -> None:
    fused("xuzhimo", float_base, tmp_path / "out")
    expected = logits(float_base, ADAPTERS / "xuzhimo")
    assert share(expected - logits(float_base), expected) > 0.01
    assert share(logits(tmp_path / "out") - expected, expected) < 1e-5


def test_half_the_strength_is_half_the_update(tmp_path: Path, float_base: Path) -> None:
    halved = tmp_path / "halved"
    shutil.copytree(ADAPTERS / "xuzhimo", halved)
    config = json.loads((halved / "adapter_config.json").read_text())
    config["lora_parameters"]["scale"] /= 2
    (halved / "adapter_config.json").write_text(json.dumps(config))
    fused("xuzhimo:0.5", float_base, tmp_path / "out")
    expected = logits(float_base, halved)
    assert share(logits(tmp_path / "out") - expected, expected) < 1e-5


def test_a_peft_folder_can_be_fused_too(tmp_path: Path, float_base: Path) -> None:
    chosen = choose(ADAPTERS, parse_one("xuzhimo@64"))
    export_folder(chosen, "peft", tmp_path / "adapters" / "xuzhimo")
    fused("xuzhimo", float_base, tmp_path / "out", tmp_path / "adapters")
    expected = logits(float_base, ADAPTERS / "xuzhimo")
    assert share(logits(tmp_path / "out") - expected, expected) < 1e-5


def test_dora_is_fused_but_has_no_strength(tmp_path: Path, float_base: Path) -> None:
    adapter = dora_adapter(tmp_path / "adapters" / "dora", float_base)
    fused("dora", float_base, tmp_path / "out", adapter.parent)
    expected = logits(float_base, adapter)
    assert share(expected - logits(float_base), expected) > 0.01
    assert share(logits(tmp_path / "out") - expected, expected) < 1e-5
    with pytest.raises(ConversionError, match="no strength"):
        fused("dora:0.5", float_base, tmp_path / "other", adapter.parent)


def test_the_base_keeps_its_type_and_its_files(tmp_path: Path) -> None:
    report = fused("xuzhimo@64", VERSE_TINY, tmp_path / "out")
    base = load_base_model(str(tmp_path / "out"), as_stored=True)
    arrays = cast(list[tuple[str, mx.array]], tree_flatten(base.model.parameters()))
    assert {array.dtype for _, array in arrays} == {mx.float16}
    assert report.num_modules == 42
    assert 0 < report.lost < 0.1
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / file).read_bytes() == (VERSE_TINY / file).read_bytes()
    assert "`xuzhimo@64`" in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_a_quantized_base_becomes_a_dense_model(tmp_path: Path, quantized_base: Path) -> None:
    fused("xuzhimo", quantized_base, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization" not in config
    assert "quantization_config" not in config
    expected = logits(quantized_base, ADAPTERS / "xuzhimo")
    assert share(logits(tmp_path / "out") - expected, expected) < 1e-3


def test_it_stays_quantized_if_asked(tmp_path: Path, quantized_base: Path) -> None:
    report = fused("xuzhimo", quantized_base, tmp_path / "out", keep_quantized=True)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization"]["bits"] == 8
    assert 0 < report.lost < 0.5
    expected = logits(quantized_base, ADAPTERS / "xuzhimo")
    assert share(logits(tmp_path / "out") - expected, expected) < 0.05
    with pytest.raises(ConversionError, match="is not quantized"):
        fused("xuzhimo", VERSE_TINY, tmp_path / "other", keep_quantized=True)


def test_an_update_lost_in_two_bits_is_refused(tmp_path: Path) -> None:
    base = rewritten(tmp_path / "verse-tiny", bits=2)
    with pytest.raises(ConversionError, match="lost in rounding"):
        fused("xuzhimo:0.1", base, tmp_path / "out", keep_quantized=True)
    assert not (tmp_path / "out").exists()


def test_the_self_check_reads_what_was_written(
    tmp_path: Path, float_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget(layer: Any, keep_quantized: bool, dtype: mx.Dtype) -> nn.Module:
        return layer.linear

    monkeypatch.setattr(fuse_module, "_fused", forget)
    with pytest.raises(ConversionError, match="off by 100%"):
        fused("xuzhimo", float_base, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over_and_another_base_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ConversionError, match="already exists"):
        fused("xuzhimo", VERSE_TINY, tmp_path / "out")
    adapter = dora_adapter(tmp_path / "adapters" / "dora", VERSE_TINY)
    weights = cast(dict[str, mx.array], mx.load(str(adapter / "adapters.safetensors")))
    moved = {name.replace("layers.5", "layers.9"): array for name, array in weights.items()}
    mx.save_safetensors(str(adapter / "adapters.safetensors"), moved)
    with pytest.raises(ConversionError, match="another one"):
        fused("dora", VERSE_TINY, tmp_path / "new", adapter.parent)
