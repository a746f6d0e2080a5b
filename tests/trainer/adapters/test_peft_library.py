"""Conversions against the `peft` library's own forward. Runs where torch and peft are installed:

uv run --group peft pytest tests/trainer/adapters/test_peft_library.py
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import utils as mlx_lm_utils

from verse_trainer.adapters.folders import choose, parse_one
from verse_trainer.adapters.transfer import export_folder, import_folder

torch: Any = pytest.importorskip("torch")
peft: Any = pytest.importorskip("peft")
transformers: Any = pytest.importorskip("transformers")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # theirs are not ours to mend

TARGETS = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]  # q and o are square here
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "some layers": {"layers_to_transform": [1]},
    "patterns": {
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 9},
        "alpha_pattern": {"v_proj": 5},
    },
    "patterns, rslora": {
        "rank_pattern": {"q_proj": 2, "^model.layers.0.mlp.gate_proj": 9},
        "alpha_pattern": {"v_proj": 5, "self_attn.o_proj": 1},
        "use_rslora": True,
    },
    "dora": {"use_dora": True},
    "dora, patterns": {"use_dora": True, "rank_pattern": {"q_proj": 2}, "use_rslora": True},
}
IDS = [[5, 6, 7, 8, 200]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 with biases, written by transformers."""
    config = transformers.Qwen2Config(
        hidden_size=64,
        num_hidden_layers=2,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=256,
        rope_theta=1e6,  # mlx-lm's default: it does not find the place where transformers 5 puts it
    )
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(folder)
    return folder


def trained(base: Path, folder: Path, **kind: Any) -> Path:
    """A PEFT folder with random numbers where an untrained one has zeros."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=6, target_modules=TARGETS, **kind
    )
    model = peft.get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
        if "lora_magnitude_vector" in name:
            with torch.no_grad():
                parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def peft_logits(base: Path, folder: Path | None) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    if folder is not None:
        model = peft.PeftModel.from_pretrained(model, folder)
    with torch.no_grad():
        return model.eval()(torch.tensor(IDS)).logits.numpy()


def mlx_logits(base: Path, folder: Path) -> Any:
    """Plain mlx-lm: `load_adapters`, no code of ours."""
    model: Any = mlx_lm_utils.load_model(base)[0]
    model = mlx_lm_utils.load_adapters(model, str(folder))
    model.eval()
    return np.array(model(mx.array(IDS)))


@pytest.mark.parametrize("kind", KINDS)
def test_an_imported_folder_answers_as_peft_does_and_so_does_its_export(
    tmp_path: Path, base: Path, kind: str
) -> None:
    source = trained(base, tmp_path / "source", **KINDS[kind])
    expected = peft_logits(base, source)
    assert np.abs(expected - peft_logits(base, None)).max() > 0.01

    imported = import_folder(source, tmp_path / "adapters", name="mine").target
    np.testing.assert_allclose(mlx_logits(base, imported), expected, rtol=1e-3, atol=1e-4)

    chosen = choose(tmp_path / "adapters", parse_one("mine"))
    exported = export_folder(chosen, "peft", tmp_path / "out").target
    np.testing.assert_allclose(peft_logits(base, exported), expected, rtol=1e-3, atol=1e-4)
    config = json.loads((exported / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
