"""mlx-lm's folders and PEFT's, each made from the other."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.trainer.adapters.conftest import Make, module_paths
from verse.prompt import PromptFormat
from verse_trainer.adapters import convert
from verse_trainer.adapters.exchange import export_adapter, import_adapter
from verse_trainer.adapters.factors import Factors
from verse_trainer.adapters.names import choose
from verse_trainer.errors import ConversionError

X = {size: np.random.default_rng(9).standard_normal((3, size)).astype("f4") for size in (320, 896)}


def mlx_updates(folder: Path) -> dict[str, Any]:
    """mlx-lm's formula in numpy: scale * (x @ a) @ b."""
    config = json.loads((folder / "adapter_config.json").read_text())["lora_parameters"]
    tensors = load_file(folder / "adapters.safetensors")
    paths = {name.removesuffix(".lora_a") for name in tensors if name.endswith(".lora_a")}
    return {
        path: config["scale"]
        * (X[tensors[f"{path}.lora_a"].shape[0]] @ tensors[f"{path}.lora_a"])
        @ tensors[f"{path}.lora_b"]
        for path in paths
    }


def peft_updates(folder: Path) -> dict[str, Any]:
    """PEFT's formula in numpy: alpha / r (or / sqrt r) * x Aᵀ Bᵀ, patterns matched as it does."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")

    def of(pattern: str, path: str, default: float) -> float:
        found = [v for k, v in config[pattern].items() if re.match(rf"(.*\.)?({k})$", path)]
        return found[0] if found else default

    updates: dict[str, Any] = {}
    for name in tensors:
        if name.endswith(".lora_A.weight"):
            path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            a, b = tensors[name], tensors[name.replace("lora_A", "lora_B")]
            rank = of("rank_pattern", path, config["r"])
            alpha = of("alpha_pattern", path, config["lora_alpha"])
            scale = alpha / (math.sqrt(rank) if config["use_rslora"] else rank)
            updates[path] = scale * X[a.shape[1]] @ a.T @ b.T
    return updates


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for path in one:
        np.testing.assert_allclose(one[path], other[path], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"patterns": True}, {"dora": True}])
def test_an_imported_adapter_computes_what_peft_computes(
    make_peft: Make, tmp_path: Path, options: dict[str, bool]
) -> None:
    source = make_peft(**options)
    folder, difference, _ = import_adapter(source, tmp_path / "adapters", "mine", None)
    assert difference < 1e-5
    assert_same(peft_updates(source), mlx_updates(folder))


@pytest.mark.parametrize("dora", [False, True])
def test_an_exported_adapter_computes_what_mlx_lm_computes(
    make_mlx: Make, tmp_path: Path, dora: bool
) -> None:
    source = make_mlx(dora=dora)
    export_adapter(choose(source.parent, "mine"), tmp_path / "out", "peft")
    assert_same(mlx_updates(source), peft_updates(tmp_path / "out"))


def test_there_and_back_gives_the_same_bytes(make_mlx: Make, tmp_path: Path) -> None:
    source = make_mlx(dora=True)
    export_adapter(choose(source.parent, "mine"), tmp_path / "out", "peft")
    back, _, _ = import_adapter(tmp_path / "out", tmp_path / "back", None, None)
    before, after = (load_file(f / "adapters.safetensors") for f in (source, back))
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)


def test_an_adapter_with_patterns_comes_back_from_peft_to_peft(
    make_peft: Make, tmp_path: Path
) -> None:
    source = make_peft(patterns=True, use_rslora=True)
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    source.rename(adapters / "p")
    export_adapter(choose(adapters, "p"), tmp_path / "out", "peft")
    assert_same(peft_updates(adapters / "p"), peft_updates(tmp_path / "out"))


def test_only_the_layers_that_were_trained_are_named_for_peft(
    make_mlx: Make, tmp_path: Path
) -> None:
    source = make_mlx(layers=(4, 5))
    export_adapter(choose(source.parent, "mine"), tmp_path / "out", "peft")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["layers_to_transform"] == [4, 5]
    assert config["target_modules"] == ["down_proj", "gate_proj", "q_proj"]
    assert config["lora_alpha"] / config["r"] == 2.5


def test_the_prompt_format_travels_with_the_adapter(make_mlx: Make, tmp_path: Path) -> None:
    source = make_mlx()
    (source / "prompt.json").write_text('{"format": "seed-chatml", "system": "写诗"}')
    export_adapter(choose(source.parent, "mine"), tmp_path / "out", "peft")
    _, _, kept = import_adapter(tmp_path / "out", tmp_path / "back", None, None)
    assert kept == PromptFormat(format="seed-chatml", system="写诗")


def test_a_wrong_conversion_is_caught_and_leaves_nothing(
    make_mlx: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classic mistake: a square matrix that is not transposed fits and computes nonsense."""
    save = convert.save_tensors

    def careless(file: Path, tensors: Any) -> None:
        square = {
            name: array.T if array.shape == (320, 320) else array for name, array in tensors.items()
        }
        save(file, square)

    monkeypatch.setattr(convert, "save_tensors", careless)
    source = make_mlx(rank=320, layers=(0,))
    with pytest.raises(ConversionError, match="The check failed"):
        export_adapter(choose(source.parent, "mine"), tmp_path / "out", "peft")
    assert not any(p.name.startswith((".out", "out")) for p in tmp_path.iterdir())


def test_the_check_sees_a_missing_module_and_numbers_that_are_none(
    make_mlx: Make, tmp_path: Path
) -> None:
    source = make_mlx(layers=(0,))
    zeros = np.zeros((320, 4), dtype="f4")
    factors = Factors(a=zeros, b=np.zeros((4, 320), dtype="f4"), scale=1.0)
    with pytest.raises(ConversionError, match="other modules"):
        convert.self_check({"model.layers.0.self_attn.q_proj": factors}, source)
    path = "model.layers.0.mlp.gate_proj"
    tensors = load_file(source / "adapters.safetensors")
    tensors[f"{path}.lora_a"][:] = math.nan
    save_file(tensors, source / "adapters.safetensors")
    with pytest.raises(ConversionError, match="The check failed"):
        export_adapter(choose(source.parent, "mine"), tmp_path / "out", "peft")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"bias": "all"}, "bias='all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"peft_type": "IA3"}, "IA3"),
    ],
)
def test_what_mlx_lm_has_no_words_for_is_refused(
    make_peft: Make, tmp_path: Path, config: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConversionError, match=reason):
        import_adapter(make_peft(**config), tmp_path / "adapters", "mine", None)
    assert not (tmp_path / "adapters").exists()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.embed_tokens.lora_embedding_A", (4, 8192)),
        ("model.layers.0.mlp.experts.lora_A.weight", (8, 4, 320)),
        ("model.layers.0.self_attn.q_proj.bias", (320,)),
    ],
)
def test_what_is_no_update_of_a_linear_layer_is_refused_by_name(
    make_peft: Make, tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    source = make_peft()
    file = source / "adapter_model.safetensors"
    save_file({**load_file(file), f"base_model.model.{name}": np.zeros(shape, "f4")}, file)
    with pytest.raises(ConversionError, match=re.escape(name)):
        import_adapter(source, tmp_path / "adapters", "mine", None)


def test_a_pickle_is_never_opened(make_peft: Make, tmp_path: Path) -> None:
    source = make_peft()
    (source / "adapter_model.safetensors").unlink()
    (source / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ConversionError, match="pickle"):
        import_adapter(source, tmp_path / "adapters", "mine", None)


def test_nothing_is_overwritten(make_peft: Make, make_mlx: Make, tmp_path: Path) -> None:
    taken = make_mlx()
    before = (taken / "adapters.safetensors").read_bytes()
    with pytest.raises(ConversionError, match="exists already"):
        import_adapter(make_peft(), taken.parent, "mine", None)
    assert (taken / "adapters.safetensors").read_bytes() == before


def test_an_imported_folder_is_served_with_the_same_update(make_peft: Make, tmp_path: Path) -> None:
    from verse.adapter_folder import read_adapter_folder
    from verse_server.engine.adapter_files import ModuleShape, plan_adapter

    source = make_peft(patterns=True)
    folder, _, _ = import_adapter(source, tmp_path / "adapters", "mine", None)
    read = read_adapter_folder(folder)
    assert read.published is not None
    shapes = {path: ModuleShape(*shape) for path, shape in module_paths((0, 5)).items()}
    plan = plan_adapter(read.published, read.config, shapes)
    tensors = load_file(read.published)
    served = {
        path: f.scale * (X[shapes[path].in_dims] @ tensors[f.a]) @ tensors[f.b]
        for path, f in plan.modules.items()
    }
    assert_same(served, peft_updates(source))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"patterns": True}, {"dora": True}])
def test_the_peft_library_itself_computes_what_mlx_lm_does(
    make_peft: Make, tmp_path: Path, options: dict[str, bool]
) -> None:
    """Both ways on verse-tiny: logits of PEFT's forward against mlx-lm's."""
    pytest.importorskip("peft")
    from tests.trainer.adapters.peft_forward import mlx_logits, peft_logits

    source = make_peft(**options)
    folder, _, _ = import_adapter(source, tmp_path / "adapters", "mine", None)
    export_adapter(choose(folder.parent, "mine"), tmp_path / "out", "peft")
    expected = peft_logits(source)
    base = peft_logits(None)
    for found in (mlx_logits(folder), peft_logits(tmp_path / "out")):
        np.testing.assert_allclose(found, expected, atol=2e-3)
    assert np.abs(expected - base).max() > 0.05
