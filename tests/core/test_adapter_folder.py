"""An adapter folder on disk. The weights are any bytes: nothing here reads a tensor."""

import json
import os
from pathlib import Path

import pytest

from verse.adapter_config import MlxConfig, PeftConfig
from verse.adapter_folder import (
    AdapterFolderError,
    checkpoint_file,
    read_adapter_folder,
    signature,
)
from verse.prompt import PromptFormat

MLX = {"fine_tune_type": "lora", "lora_parameters": {"rank": 8, "scale": 2.0}}
PEFT = {"peft_type": "LORA", "r": 8, "lora_alpha": 16}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As the trainer leaves it."""
    path = tmp_path / "徐志摩"
    path.mkdir()
    write_config(path, MLX)
    (path / "adapters.safetensors").write_bytes(b"best")
    (path / "0000100_adapters.safetensors").write_bytes(b"step 100")
    (path / "0000200_adapters.safetensors").write_bytes(b"step 200")
    (path / "prompt.json").write_text('{"format": "seed-chatml", "stop": ["<|im_end|>"]}')
    return path


def write_config(path: Path, config: object) -> None:
    (path / "adapter_config.json").write_text(json.dumps(config))


def test_an_mlx_lm_folder_is_read_whole(folder: Path) -> None:
    adapter = read_adapter_folder(folder)
    assert adapter.name == "徐志摩"
    assert adapter.path == folder
    assert isinstance(adapter.config, MlxConfig)
    assert adapter.prompt_format == PromptFormat(format="seed-chatml", stop=("<|im_end|>",))
    assert adapter.published == folder / "adapters.safetensors"
    assert adapter.checkpoints == {
        100: folder / "0000100_adapters.safetensors",
        200: folder / "0000200_adapters.safetensors",
    }
    assert adapter.last_step == 200


def test_weights_are_found_by_step(folder: Path) -> None:
    adapter = read_adapter_folder(folder)
    assert adapter.weights(None) == folder / "adapters.safetensors"
    assert adapter.weights(200) == folder / "0000200_adapters.safetensors"
    assert adapter.weights(300) is None


def test_checkpoints_are_named_as_mlx_lm_names_them() -> None:
    assert checkpoint_file(200) == "0000200_adapters.safetensors"
    assert checkpoint_file(12_345_678) == "12345678_adapters.safetensors"


def test_checkpoints_are_in_the_order_of_their_steps_not_of_their_names(folder: Path) -> None:
    for step in (12_345_678, 99, 1_000):
        (folder / checkpoint_file(step)).write_bytes(b"x")
    (folder / "50_adapters.safetensors").write_bytes(b"a width of its own")
    adapter = read_adapter_folder(folder)
    assert list(adapter.checkpoints) == [50, 99, 100, 200, 1_000, 12_345_678]
    assert adapter.last_step == 12_345_678


def test_what_only_looks_like_a_checkpoint_is_none(folder: Path) -> None:
    for name in (
        "best_adapters.safetensors",
        "0000300_adapters.safetensors.tmp",
        "0000300_adapters.npz",
        "-100_adapters.safetensors",
        "0000300_optimizer.safetensors",
        ".0000300_adapters.safetensors",
    ):
        (folder / name).write_bytes(b"x")
    (folder / "0000400_adapters.safetensors").mkdir()
    (folder / "0000500_adapters.safetensors").symlink_to(folder / "gone")
    assert list(read_adapter_folder(folder).checkpoints) == [100, 200]


def test_a_folder_may_hold_only_checkpoints_while_it_trains(folder: Path) -> None:
    (folder / "adapters.safetensors").unlink()
    adapter = read_adapter_folder(folder)
    assert adapter.published is None
    assert adapter.weights(None) is None
    assert adapter.last_step == 200


def test_a_folder_may_hold_no_checkpoints(folder: Path) -> None:
    for file in folder.glob("0*"):
        file.unlink()
    adapter = read_adapter_folder(folder)
    assert adapter.checkpoints == {}
    assert adapter.last_step is None


def test_a_peft_folder_has_its_own_weights_file_and_no_checkpoints(folder: Path) -> None:
    write_config(folder, PEFT)
    (folder / "adapter_model.safetensors").write_bytes(b"peft")
    adapter = read_adapter_folder(folder)
    assert isinstance(adapter.config, PeftConfig)
    assert adapter.published == folder / "adapter_model.safetensors"
    assert adapter.checkpoints == {}


def test_no_prompt_format_is_recorded_where_there_is_no_file(folder: Path) -> None:
    (folder / "prompt.json").unlink()
    assert read_adapter_folder(folder).prompt_format is None


def test_an_empty_prompt_format_is_the_default_one(folder: Path) -> None:
    (folder / "prompt.json").write_text("{}")
    assert read_adapter_folder(folder).prompt_format == PromptFormat()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": "alpaca"}',
        '{"system": 1}',
        '{"stop": "<|im_end|>"}',
        '"chat"',
    ],
)
def test_a_prompt_format_that_says_nothing_readable_refuses_the_folder(
    folder: Path, text: str
) -> None:
    (folder / "prompt.json").write_text(text)
    with pytest.raises(AdapterFolderError, match=r"^prompt\.json cannot be read: .+\.$"):
        read_adapter_folder(folder)


def test_a_missing_configuration_is_named(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()
    with pytest.raises(AdapterFolderError, match=r"^adapter_config\.json is missing\.$"):
        read_adapter_folder(folder)


@pytest.mark.parametrize("data", [b"", b"{", b"{}", b"[]", b"\xff\xff", b'{"rank": 8}'])
def test_a_configuration_that_cannot_be_read_is_named(folder: Path, data: bytes) -> None:
    (folder / "adapter_config.json").write_bytes(data)
    with pytest.raises(AdapterFolderError, match=r"^adapter_config\.json cannot be read: .+\.$"):
        read_adapter_folder(folder)


def test_a_folder_in_the_place_of_the_configuration_is_an_error_like_any_other(
    folder: Path,
) -> None:
    (folder / "adapter_config.json").unlink()
    (folder / "adapter_config.json").mkdir()
    with pytest.raises(AdapterFolderError, match="cannot be read"):
        read_adapter_folder(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "prompt.json"])
def test_a_pipe_keeps_nobody_waiting(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(AdapterFolderError, match="no ordinary file"):
        read_adapter_folder(folder)


def test_a_configuration_of_megabytes_is_refused(folder: Path) -> None:
    (folder / "prompt.json").write_text('{"system": "' + "诗" * 400_000 + '"}')
    with pytest.raises(AdapterFolderError, match="too large"):
        read_adapter_folder(folder)


def test_an_unsupported_kind_is_refused_with_its_reason(folder: Path) -> None:
    write_config(folder, {"fine_tune_type": "full"})
    with pytest.raises(AdapterFolderError, match="full fine-tune"):
        read_adapter_folder(folder)
    write_config(folder, {**PEFT, "bias": "all"})
    with pytest.raises(AdapterFolderError, match="bias='all'"):
        read_adapter_folder(folder)


def test_missing_weights_are_named_after_the_dialect(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(AdapterFolderError, match=r"^adapters\.safetensors is missing\.$"):
        read_adapter_folder(folder)
    write_config(folder, PEFT)
    with pytest.raises(AdapterFolderError, match=r"^adapter_model\.safetensors is missing\.$"):
        read_adapter_folder(folder)


def test_a_pickle_is_refused_and_never_opened(folder: Path) -> None:
    write_config(folder, PEFT)
    (folder / "adapters.safetensors").unlink()
    os.mkfifo(folder / "adapter_model.bin")  # whoever opens this waits for ever
    with pytest.raises(AdapterFolderError, match="pickle, which is never opened"):
        read_adapter_folder(folder)


def test_a_pickle_beside_the_safetensors_does_no_harm(folder: Path) -> None:
    write_config(folder, PEFT)
    os.mkfifo(folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").write_bytes(b"peft")
    assert read_adapter_folder(folder).published == folder / "adapter_model.safetensors"


def test_the_signature_stays_while_nothing_that_counts_is_written(folder: Path) -> None:
    before = signature(folder)
    (folder / "train.log").write_text("loss 2.1")
    (folder / "README.md").write_text("徐志摩")
    (folder / "runs").mkdir()
    read_adapter_folder(folder)
    assert signature(folder) == before


@pytest.mark.parametrize(
    "name",
    [
        "adapter_config.json",
        "prompt.json",
        "adapters.safetensors",
        "0000200_adapters.safetensors",
        "0000300_adapters.safetensors",
        "adapter_model.safetensors",
        "adapter_model.bin",
    ],
)
def test_the_signature_changes_when_a_file_that_counts_is_written_or_made(
    folder: Path, name: str
) -> None:
    before = signature(folder)
    (folder / name).write_bytes(b"something of another length")
    assert signature(folder) != before


def test_the_signature_changes_when_only_the_time_does(folder: Path) -> None:
    before = signature(folder)
    os.utime(folder / "adapters.safetensors", ns=(1, 1))
    assert signature(folder) != before


def test_the_signature_changes_when_a_file_of_the_same_size_and_time_is_moved_into_place(
    folder: Path,
) -> None:
    published = folder / "adapters.safetensors"
    before, times = signature(folder), (published.stat().st_atime_ns, published.stat().st_mtime_ns)
    (folder / "new").write_bytes(b"next")
    os.utime(folder / "new", ns=times)
    (folder / "new").replace(published)
    assert signature(folder) != before


def test_the_signature_changes_when_a_checkpoint_is_removed(folder: Path) -> None:
    before = signature(folder)
    (folder / "0000100_adapters.safetensors").unlink()
    assert signature(folder) != before


def test_a_link_to_nothing_does_not_stop_the_signature(folder: Path) -> None:
    before = signature(folder)
    (folder / "0000300_adapters.safetensors").symlink_to(folder / "gone")
    assert signature(folder) == before


def test_a_folder_that_is_not_there_has_no_signature(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        signature(tmp_path / "gone")


def test_keys_of_prompt_json_that_nobody_reads_are_named(folder: Path) -> None:
    (folder / "prompt.json").write_text('{"format": "chat", "sytem": "写诗", "stop": []}')
    read = read_adapter_folder(folder)
    assert read.prompt_format is not None
    assert read.prompt_format.system is None
    assert read.unread_prompt_keys == ("sytem",)
