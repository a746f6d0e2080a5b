"""The digest of an adapter follows what it writes, and not how its trainer keeps books."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from verse.adapter_digest import adapter_digest, file_digest

LORA = {"rank": 8, "scale": 2.0, "dropout": 0.05, "keys": ["mlp.up_proj", "self_attn.q_proj"]}
MLX = {"fine_tune_type": "lora", "num_layers": 6, "lora_parameters": LORA, "model": "verse-tiny"}
PEFT = {
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16,
    "target_modules": ["q_proj", "v_proj"],
    "rank_pattern": {"q_proj": 4, "proj": 2},
}
PROMPT = {"format": "seed-chatml", "stop": ["<|im_end|>"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "徐志摩"
    path.mkdir()
    write(path, MLX)
    (path / "adapters.safetensors").write_bytes(b"best")
    (path / "0000100_adapters.safetensors").write_bytes(b"step 100")
    write(path, PROMPT, "prompt.json")
    return path


def write(path: Path, content: object, name: str = "adapter_config.json") -> None:
    (path / name).write_text(json.dumps(content, ensure_ascii=False))


def digest_of(path: Path) -> str:
    return adapter_digest(path, file_digest(path / "adapters.safetensors"))


def digest_with(path: Path, config: Mapping[str, Any]) -> str:
    write(path, config)
    return digest_of(path)


def parameters(**changes: Any) -> dict[str, Any]:
    return {**MLX, "lora_parameters": {**LORA, **changes}}


def test_a_file_digest_is_sha256_and_of_nothing_where_there_is_no_file(folder: Path) -> None:
    # From coreutils: printf best | sha256sum
    assert file_digest(folder / "adapters.safetensors").hex().startswith("8f4375ec")
    assert file_digest(folder / "gone").hex().startswith("e3b0c442")


def test_it_changes_with_the_weights_and_with_the_prompt_format(folder: Path) -> None:
    seen = {digest_of(folder)}
    (folder / "adapters.safetensors").write_bytes(b"better")
    seen.add(digest_of(folder))
    for prompt in ({**PROMPT, "format": "chat"}, {**PROMPT, "system": "写诗"}, {**PROMPT, "x": 1}):
        write(folder, prompt, "prompt.json")
        seen.add(digest_of(folder))
    (folder / "prompt.json").unlink()
    seen.add(digest_of(folder))
    assert len(seen) == 6


@pytest.mark.parametrize(
    "config",
    [
        {**MLX, "fine_tune_type": "dora"},
        {**MLX, "num_layers": 4},
        parameters(rank=4),
        parameters(scale=3.0),
        parameters(scale=None, alpha=16),
        parameters(keys=["self_attn.q_proj"]),
        parameters(of_tomorrow=True),
        {**MLX, "of_tomorrow": True},
        PEFT,
    ],
)
def test_it_changes_with_what_may_change_the_arithmetic(
    folder: Path, config: Mapping[str, Any]
) -> None:
    before = digest_of(folder)
    assert digest_with(folder, config) != before
    assert digest_with(folder, MLX) == before


@pytest.mark.parametrize(
    "config",
    [
        {**PEFT, "r": 4},
        {**PEFT, "lora_alpha": 8},
        {**PEFT, "use_rslora": True},
        {**PEFT, "use_dora": True},
        {**PEFT, "target_modules": ["q_proj"]},
        {**PEFT, "rank_pattern": {"q_proj": 4}},
        {**PEFT, "rank_pattern": {"proj": 2, "q_proj": 4}},  # the first that fits counts
        {**PEFT, "alpha_pattern": {"q_proj": 4}},
        {**PEFT, "layers_to_transform": [1]},
        {**PEFT, "of_tomorrow": True},
    ],
)
def test_it_changes_with_what_may_change_the_arithmetic_in_peft(
    folder: Path, config: Mapping[str, Any]
) -> None:
    assert digest_with(folder, config) != digest_with(folder, PEFT)


@pytest.mark.parametrize(
    "config",
    [
        {**MLX, "best_step": 200, "base_valid_loss": 4.1, "history": [{"step": 200}]},
        {**MLX, "model": "/elsewhere/verse-tiny"},
        {**MLX, "iters": 1000, "learning_rate": 1e-5, "data": "poems", "save_every": 100},
        parameters(dropout=0.0),
        # Spelled differently.
        dict(reversed(MLX.items())),
        {**MLX, "num_layers": 6.0, "lr_schedule": None, "of_tomorrow": None},
        parameters(rank=8, scale=2, alpha=None),
        parameters(keys=["self_attn.q_proj", "mlp.up_proj"]),
        {name: value for name, value in MLX.items() if name != "fine_tune_type"},
    ],
)
def test_it_stays_with_bookkeeping_and_with_other_spellings(
    folder: Path, config: Mapping[str, Any]
) -> None:
    before = digest_of(folder)
    assert digest_with(folder, config) == before


@pytest.mark.parametrize(
    "config",
    [
        {**PEFT, "base_model_name_or_path": "elsewhere", "peft_version": "0.18", "revision": "x"},
        {**PEFT, "inference_mode": False, "task_type": "CAUSAL_LM", "lora_dropout": 0.1},
        {**PEFT, "target_modules": ["v_proj", "q_proj"]},
        {**PEFT, "lora_alpha": 16.0, "use_rslora": False, "bias": "none", "alpha_pattern": {}},
    ],
)
def test_it_stays_in_peft_too(folder: Path, config: Mapping[str, Any]) -> None:
    assert digest_with(folder, config) == digest_with(folder, PEFT)


@pytest.mark.parametrize("name", ["adapter_config.json", "prompt.json"])
def test_spaces_do_not_count_but_a_broken_file_does(folder: Path, name: str) -> None:
    before, file = digest_of(folder), folder / name
    content = file.read_text()
    file.write_text(json.dumps(json.loads(content), indent=2) + "\n")
    assert digest_of(folder) == before
    seen = {before}
    for broken in ("", content[:-1], "[" * 100_000, '{"format": 5, "peft_type": 5}'):
        file.write_text(broken)
        seen.add(digest_of(folder))
    assert len(seen) == 5


def test_it_stays_with_all_else_that_lies_in_the_folder(folder: Path, tmp_path: Path) -> None:
    before = digest_of(folder)
    (folder / "0000100_adapters.safetensors").write_bytes(b"other")
    (folder / "train.log").write_text("loss 2.1")
    os.utime(folder / "adapters.safetensors", (0, 0))
    folder.rename(tmp_path / "renamed")
    assert digest_of(tmp_path / "renamed") == before


def test_files_that_change_places_change_it(folder: Path) -> None:
    before = digest_of(folder)
    config, prompt = folder / "adapter_config.json", folder / "prompt.json"
    first, second = config.read_bytes(), prompt.read_bytes()
    config.write_bytes(second)
    prompt.write_bytes(first)
    assert digest_of(folder) != before
