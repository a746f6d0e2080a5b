"""Numbers of other types, what only training uses, and old configurations: import, show, export."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.server.engine.fixtures_files import RANK, mlx_tensors, write_adapter
from tests.trainer.adapters.peft_folders import MODULES, layer, mlx_output, peft_output, write_peft
from verse import cli
from verse.adapter_config import decode_adapter_config
from verse_trainer.adapters.folders import choose, parse_one
from verse_trainer.adapters.transfer import export_folder, import_folder
from verse_trainer.errors import ConversionError

WEIGHTS = "adapter_model.safetensors"


def retype(folder: Path, file: str, dtype: Any, largest: float | None = None) -> Path:
    tensors = {name: array.astype(dtype) for name, array in load_file(folder / file).items()}
    if largest is not None:
        next(iter(tensors.values()))[0, 0] = largest
    save_file(tensors, folder / file)
    return folder


@pytest.mark.parametrize("kind", [{}, {"use_dora": True, "rank_pattern": {"q_proj": 2}}])
def test_float64_is_converted_on_import(tmp_path: Path, kind: dict[str, Any]) -> None:
    source = retype(write_peft(tmp_path / "source", **kind), WEIGHTS, np.float64)
    imported = import_folder(source, tmp_path / "adapters", name="mine").target
    written = load_file(imported / "adapters.safetensors")
    assert {array.dtype for array in written.values()} == {np.dtype(np.float32)}
    for module in MODULES:
        x, weight = layer(module)
        expected = peft_output(source, module, x, weight)
        np.testing.assert_allclose(
            mlx_output(imported, module, x, weight), expected, rtol=1e-4, atol=1e-4
        )


def test_a_float64_that_float32_cannot_hold_is_refused(tmp_path: Path) -> None:
    source = retype(write_peft(tmp_path / "source"), WEIGHTS, np.float64, 1e300)
    with pytest.raises(ConversionError, match="infinity"):
        import_folder(source, tmp_path / "adapters")


@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_show_and_export_say_it_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: Any
) -> None:
    retype(write_adapter(tmp_path / "mine"), "adapters.safetensors", dtype)
    options = ("--adapters", str(tmp_path))
    reason = f"is stored as {'F64' if dtype is np.float64 else 'U8'}"
    assert cli.main(["adapters", "show", "mine", *options]) == 0
    assert reason in " ".join(capsys.readouterr().out.split())
    export = ["adapters", "export", "mine", "--to", "peft", "-o", str(tmp_path / "out")]
    assert cli.main([*export, *options]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_only_training_uses_does_not_reach_the_import_and_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_peft(tmp_path / "source", velora_config={"num_groups": 2})
    file = source / WEIGHTS
    extra = {f"base_model.model.{m}.lora_velora_embed": np.ones(8, np.float32) for m in MODULES}
    save_file({**load_file(file), **extra}, file)
    code = cli.main(
        ["adapters", "import", str(source), "--name", "mine", "--adapters", str(tmp_path / "in")]
    )
    assert code == 0
    assert "6 tensors that only training uses are ignored" in capsys.readouterr().out
    written = load_file(tmp_path / "in" / "mine" / "adapters.safetensors")
    assert len(written) == 2 * len(MODULES)


def test_an_old_configuration_of_dora_is_dora_also_for_todays_mlx_lm(tmp_path: Path) -> None:
    legacy = {
        "lora_layers": -1,
        "lora_parameters": {"rank": RANK, "alpha": 8, "dropout": 0.0, "scale": 2.0},
        "model": "verse-tiny",
        "use_dora": True,
    }
    write_adapter(tmp_path / "old", tensors=mlx_tensors(dora=True), config=legacy)
    chosen = choose(tmp_path, parse_one("old"))
    exported = export_folder(chosen, "mlx", tmp_path / "new").target
    assert json.loads((exported / "adapter_config.json").read_text())["fine_tune_type"] == "dora"
    as_peft = export_folder(chosen, "peft", tmp_path / "peft").target
    assert json.loads((as_peft / "adapter_config.json").read_text())["use_dora"]


@pytest.mark.parametrize(
    ("config", "is_dora"),
    [
        ({"use_dora": True}, True),
        ({"use_dora": False}, False),
        ({"use_dora": True, "fine_tune_type": "lora"}, False),
        ({"use_dora": False, "fine_tune_type": "dora"}, True),
    ],
)
def test_the_newer_key_counts_where_both_are_there(config: dict[str, Any], is_dora: bool) -> None:
    decoded = decode_adapter_config(
        json.dumps({"lora_parameters": {"rank": 4, "scale": 1.0}, **config}).encode()
    )
    assert decoded.uses_dora is is_dora
    assert decoded.refusal() is None
