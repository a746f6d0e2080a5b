"""Import and export, measured with the formulas of peft and mlx-lm in plain numpy."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm import utils as mlx_lm_utils
from safetensors.numpy import load_file, save_file

from tests.trainer.adapters.peft_folders import (
    KINDS,
    MODULES,
    layer,
    mlx_output,
    peft_output,
    write_peft,
)
from verse.adapter_files import ModuleShape, plan_adapter
from verse.adapter_folder import read_adapter_folder
from verse.model_spelling import AdapterPart
from verse.prompt import PromptFormat
from verse_server.engine.adapters.registry import AdapterRegistry
from verse_server.engine.adapters.weights import load_weights
from verse_trainer.adapters import convert, transfer
from verse_trainer.adapters.folders import choose, parse_one
from verse_trainer.adapters.transfer import export_folder, import_folder
from verse_trainer.errors import AdapterError, ConversionError

ROOT = Path(__file__).parents[3]
VERSE_TINY = ROOT / "models" / "verse-tiny"
BASE_SHAPES = {module: ModuleShape(*shape) for module, shape in MODULES.items()}


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


def export(adapters: Path, spelling: str, to: Any, output: Path, **options: Any) -> Path:
    return export_folder(choose(adapters, parse_one(spelling)), to, output, **options).target


def test_cases_have_square_and_other_modules() -> None:
    assert {num_in == num_out for num_in, num_out in MODULES.values()} == {True, False}


@pytest.mark.parametrize("kind", KINDS)
def test_an_imported_adapter_computes_what_peft_computes(
    tmp_path: Path, adapters: Path, kind: str
) -> None:
    source = write_peft(tmp_path / "source", **KINDS[kind])
    imported = import_folder(source, adapters, name="mine").target
    for module in MODULES:
        x, weight = layer(module)
        expected = peft_output(source, module, x, weight)
        assert np.abs(expected - x @ weight.T).max() > 0.1
        np.testing.assert_allclose(
            mlx_output(imported, module, x, weight), expected, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("kind", KINDS)
def test_exported_again_it_still_does(tmp_path: Path, adapters: Path, kind: str) -> None:
    source = write_peft(tmp_path / "source", **KINDS[kind])
    import_folder(source, adapters, name="mine")
    exported = export(adapters, "mine", "peft", tmp_path / "out")
    for module in MODULES:
        x, weight = layer(module)
        np.testing.assert_allclose(
            peft_output(exported, module, x, weight),
            peft_output(source, module, x, weight),
            rtol=1e-4,
            atol=1e-4,
        )


@pytest.mark.parametrize("kind", KINDS)
def test_the_server_reads_the_same_update_from_either_folder(
    tmp_path: Path, adapters: Path, kind: str
) -> None:
    source = write_peft(tmp_path / "source", **KINDS[kind])
    imported = import_folder(source, adapters, name="mine").target
    exported = export(adapters, "mine", "peft", tmp_path / "out")
    for path in (imported, exported):
        for module, got in served_outputs(path).items():
            expected = peft_output(source, module, *layer(module))
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def served_outputs(path: Path) -> dict[str, Any]:
    """What the engine's own reader makes of a folder, for the input and weight of each module."""
    folder = read_adapter_folder(path)
    assert folder.published is not None
    plan = plan_adapter(folder.published, folder.config, BASE_SHAPES)
    linears: dict[str, nn.Module] = {}
    for module, (num_in, num_out) in MODULES.items():
        linears[module] = linear = nn.Linear(num_in, num_out, bias=False)
        linear.weight = mx.array(layer(module)[1])
    weights = load_weights(folder.published.read_bytes(), plan, linears, mx.float32)
    outputs: dict[str, Any] = {}
    for module, update in weights.modules.items():
        x, weight = map(mx.array, layer(module))
        gain = 1 if update.gain is None else update.gain
        outputs[module] = np.array(x @ weight.T * gain + x @ update.a.T @ update.b)
    assert outputs.keys() == MODULES.keys()
    return outputs


def test_the_servers_registry_offers_an_imported_adapter(tmp_path: Path, adapters: Path) -> None:
    import_folder(write_peft(tmp_path / "source"), adapters, name="mine")
    registry = AdapterRegistry(adapters, "base-model", BASE_SHAPES)
    assert registry.version(AdapterPart("mine")).plan.scale == 2.0
    assert [info.id for info in registry.models()] == ["mine"]


def test_plain_mlx_lm_loads_what_is_imported_and_exported(tmp_path: Path, adapters: Path) -> None:
    peft = export(ROOT / "adapters", "xuzhimo@64", "peft", tmp_path / "peft")
    folders = [
        ROOT / "adapters" / "xuzhimo",
        import_folder(peft, adapters, name="mine", base=str(VERSE_TINY)).target,
        export(adapters, "mine", "mlx", tmp_path / "mlx"),
    ]
    logits: list[mx.array] = []
    for folder in folders:
        model: Any = mlx_lm_utils.load(str(VERSE_TINY), adapter_path=str(folder))[0]
        logits.append(model(mx.array([[5, 6, 7]])))
    assert mx.array_equal(logits[0], logits[1])
    assert mx.array_equal(logits[0], logits[2])


def test_types_are_kept_where_nothing_is_folded_in(tmp_path: Path, adapters: Path) -> None:
    peft = export(ROOT / "adapters", "xuzhimo", "peft", tmp_path / "peft")
    imported = import_folder(peft, adapters, name="mine").target
    before = load_file(ROOT / "adapters" / "xuzhimo" / "adapters.safetensors")
    after = load_file(imported / "adapters.safetensors")
    assert {name: array.dtype for name, array in before.items()} == {
        name: array.dtype for name, array in after.items()
    }
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_an_import_keeps_base_dropout_and_prompt(tmp_path: Path, adapters: Path) -> None:
    source = write_peft(tmp_path / "source")
    prompt = '{"format": "seed-chatml", "stop": ["<|im_end|>"]}'
    (source / "prompt.json").write_text(prompt)
    imported = import_folder(source, adapters, name="mine")
    config = json.loads((imported.target / "adapter_config.json").read_text())
    assert config["model"] == "someone/base"
    assert config["num_layers"] == -1
    assert config["lora_parameters"]["dropout"] == 0.1
    assert config["lora_parameters"]["keys"] == [
        "mlp.down_proj",
        "self_attn.q_proj",
        "self_attn.v_proj",
    ]
    assert (imported.target / "prompt.json").read_text() == prompt
    assert imported.has_prompt_format


def test_a_prompt_format_given_stands_in_for_the_one_recorded(
    tmp_path: Path, adapters: Path
) -> None:
    source = write_peft(tmp_path / "source")
    imported = import_folder(source, adapters, name="mine").target
    assert not (imported / "prompt.json").exists()
    given = PromptFormat(format="chat", system="写诗")
    other = import_folder(source, adapters, name="other", prompt_format=given).target
    assert read_adapter_folder(other).prompt_format == given


def test_a_module_outside_of_the_blocks_is_named_in_full(tmp_path: Path, adapters: Path) -> None:
    modules = {**MODULES, "lm_head": (16, 40)}
    imported = import_folder(write_peft(tmp_path / "source", modules), adapters, name="mine")
    config = json.loads((imported.target / "adapter_config.json").read_text())
    assert "lm_head" in config["lora_parameters"]["keys"]
    exported = export(adapters, "mine", "peft", tmp_path / "out")
    config = json.loads((exported / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(modules)
    assert config["layers_to_transform"] is None


def test_an_export_names_the_layers_and_the_modules_in_them(tmp_path: Path, adapters: Path) -> None:
    some = {module: shape for module, shape in MODULES.items() if ".1." in module}
    import_folder(write_peft(tmp_path / "source", some), adapters, name="mine")
    exported = export(adapters, "mine", "peft", tmp_path / "out", base="other/base")
    config = json.loads((exported / "adapter_config.json").read_text())
    assert config["layers_to_transform"] == [1]
    assert config["target_modules"] == ["mlp.down_proj", "self_attn.q_proj", "self_attn.v_proj"]
    assert config["base_model_name_or_path"] == "other/base"
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 8, 0.1)


def test_a_checkpoint_exported_for_mlx_lm_is_the_published_one_there(tmp_path: Path) -> None:
    adapters = tmp_path / "adapters"
    shutil.copytree(ROOT / "adapters" / "xuzhimo", adapters / "x")
    config = json.loads((adapters / "x" / "adapter_config.json").read_text())
    config["lora_parameters"] = {"rank": 8, "alpha": 16}
    del config["num_layers"]
    (adapters / "x" / "adapter_config.json").write_text(json.dumps(config))
    published = load_file(adapters / "x" / "adapters.safetensors")
    doubled = {name: array * 2 for name, array in published.items()}
    save_file(doubled, adapters / "x" / "0000199_adapters.safetensors")
    exported = export(adapters, "x@last", "mlx", tmp_path / "out")
    written = json.loads((exported / "adapter_config.json").read_text())
    assert written["lora_parameters"] == {"rank": 8, "alpha": 16, "scale": 2.0, "dropout": 0.0}
    assert written["num_layers"] == -1
    assert "best_step" not in written
    assert {file.name for file in exported.iterdir()} == {
        "adapter_config.json",
        "adapters.safetensors",
        "prompt.json",
        "run.json",
    }
    name = next(iter(doubled))
    assert np.array_equal(load_file(exported / "adapters.safetensors")[name], doubled[name])


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"peft_type": "IA3"}, "is not LORA"),
        ({"bias": "all"}, "bias='all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"init_lora_weights": "pissa"}, "pissa"),
    ],
)
def test_what_cannot_be_served_is_not_imported(
    tmp_path: Path, adapters: Path, config: dict[str, Any], sentence: str
) -> None:
    source = write_peft(tmp_path / "source", **config)
    with pytest.raises(ConversionError, match=sentence):
        import_folder(source, adapters)
    assert not adapters.exists()


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        ("model.layers.0.self_attn.qkv_proj", "--base"),
        ("transformer.h.0.attn.c_attn", "--base"),
        ("model.layers.0.mlp.experts.3.up_proj", "mixture"),
    ],
)
def test_modules_that_mlx_lm_keeps_in_another_form_are_refused(
    tmp_path: Path, adapters: Path, module: str, sentence: str
) -> None:
    source = write_peft(tmp_path / "source", {module: (16, 8)})
    with pytest.raises(ConversionError, match=sentence):
        import_folder(source, adapters)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, adapters: Path) -> None:
    with pytest.raises(ConversionError, match="another base"):
        import_folder(write_peft(tmp_path / "source"), adapters, base=str(VERSE_TINY))


def test_pickles_and_folders_that_are_none_are_refused(tmp_path: Path, adapters: Path) -> None:
    source = write_peft(tmp_path / "source")
    (source / "adapter_model.safetensors").rename(source / "adapter_model.bin")
    with pytest.raises(ConversionError, match="pickle"):
        import_folder(source, adapters)
    with pytest.raises(ConversionError, match="There is no folder"):
        import_folder(tmp_path / "nowhere", adapters)
    with pytest.raises(ConversionError, match="mlx-lm's format already"):
        import_folder(ROOT / "adapters" / "xuzhimo", adapters)


def test_a_rank_that_the_tensors_contradict_is_refused(tmp_path: Path, adapters: Path) -> None:
    source = write_peft(tmp_path / "source")
    config = json.loads((source / "adapter_config.json").read_text())
    (source / "adapter_config.json").write_text(json.dumps({**config, "r": 16}))
    with pytest.raises(ConversionError, match="recorded rank 16"):
        import_folder(source, adapters)


def test_a_name_that_is_taken_or_the_bases_is_refused(tmp_path: Path, adapters: Path) -> None:
    source = write_peft(tmp_path / "source", base_model_name_or_path="someone/base-model")
    import_folder(source, adapters, name="mine")
    kept = (adapters / "mine" / "adapters.safetensors").read_bytes()
    with pytest.raises(ConversionError, match="already exists"):
        import_folder(source, adapters, name="mine")
    assert (adapters / "mine" / "adapters.safetensors").read_bytes() == kept
    with pytest.raises(ConversionError, match="base's own name"):
        import_folder(source, adapters, name="base-model")
    for name in ("base", "../out", "a b", ".hidden", "a@b"):
        with pytest.raises(AdapterError, match=r"name"):
            import_folder(source, adapters, name=name)
    assert [path.name for path in adapters.iterdir()] == ["mine"]


@pytest.mark.parametrize("spoil", ["transposed", "scale", "a module less"])
def test_the_self_check_finds_a_wrong_conversion_and_keeps_nothing_of_it(
    tmp_path: Path, adapters: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    name = "model.layers.1.self_attn.q_proj.lora_a"

    def wrong(*args: Any, **options: Any) -> Any:
        tensors, config = convert.to_mlx(*args, **options)
        if spoil == "transposed":
            b = name.replace("lora_a", "lora_b")
            tensors[name] = mx.contiguous(tensors[b].T)
        elif spoil == "scale":
            tensors[name] = tensors[name] * 1.01
        else:
            del tensors[name], tensors[name.replace("lora_a", "lora_b")]
        return tensors, config

    monkeypatch.setattr(transfer, "to_mlx", wrong)
    with pytest.raises(ConversionError, match="bug"):
        import_folder(write_peft(tmp_path / "source"), adapters, name="mine")
    assert list(adapters.iterdir()) == []


def test_the_self_check_is_far_from_its_tolerance_when_all_is_well(
    tmp_path: Path, adapters: Path
) -> None:
    for place, kind in enumerate(KINDS):
        source = write_peft(tmp_path / f"source{place}", **KINDS[kind])
        assert import_folder(source, adapters).difference < convert.TOLERANCE / 10


def test_weights_that_hold_nan_are_refused(tmp_path: Path, adapters: Path) -> None:
    source = write_peft(tmp_path / "source")
    file = source / "adapter_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values()))[0, 0] = np.nan
    save_file(tensors, file)
    with pytest.raises(ConversionError, match="NaN"):
        import_folder(source, adapters)
