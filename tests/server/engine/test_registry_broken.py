"""Adapter folders that are half-written or cannot be served, and what is said of them."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.server.engine.fixtures_files import (
    BASE_MODULES,
    age,
    checkpoint,
    cut_in_half,
    digest,
    mlx_config,
    mlx_tensors,
    names,
    not_found,
    peft_tensors,
    refusal,
    write_adapter,
    write_weights,
)
from verse.adapter_files import ModuleShape, plan_adapter
from verse.model_spelling import AdapterPart
from verse_server.engine.adapters.registry import AdapterRegistry
from verse_server.engine.errors import AdapterIncompatibleError

WEIGHTS = "adapters.safetensors"


def test_a_half_written_replacement_keeps_the_previous_version_for_a_moment(
    registry: AdapterRegistry, root: Path
) -> None:
    before = digest(registry, "xuzhimo")
    cut_in_half(root / "xuzhimo" / WEIGHTS)
    assert digest(registry, "xuzhimo") == before
    assert names(registry) == ["hushi", "xuzhimo"]
    age(root / "xuzhimo")
    assert "is not a whole safetensors file" in refusal(registry, "xuzhimo")
    assert names(registry) == ["hushi"]


@pytest.mark.parametrize("text", ["", '{"lora_par'])
def test_a_half_written_configuration_keeps_the_previous_version_for_a_moment(
    registry: AdapterRegistry, root: Path, text: str
) -> None:
    before = digest(registry, "xuzhimo")
    (root / "xuzhimo" / "adapter_config.json").write_text(text)
    assert digest(registry, "xuzhimo") == before
    age(root / "xuzhimo")
    assert "adapter_config.json cannot be read" in refusal(registry, "xuzhimo")


@pytest.mark.parametrize("name", [WEIGHTS, "adapter_config.json"])
def test_a_file_that_is_away_for_a_moment_keeps_the_previous_version(
    registry: AdapterRegistry, root: Path, name: str
) -> None:
    checkpoint(root / "xuzhimo", 100, seed=7)
    before = digest(registry, "xuzhimo")
    age(root / "xuzhimo")
    (root / "xuzhimo" / name).unlink()
    assert digest(registry, "xuzhimo") == before
    age(root / "xuzhimo")
    refusal(registry, "xuzhimo")


def test_a_folder_emptied_to_be_filled_again_keeps_the_previous_version_for_a_moment(
    registry: AdapterRegistry, root: Path
) -> None:
    before = digest(registry, "xuzhimo")
    for file in (root / "xuzhimo").iterdir():
        file.unlink()
    assert digest(registry, "xuzhimo") == before
    age(root / "xuzhimo")
    assert refusal(registry, "xuzhimo") == "adapter_config.json is missing."


def test_a_replacement_that_becomes_whole_is_published(
    registry: AdapterRegistry, root: Path
) -> None:
    before = digest(registry, "xuzhimo")
    cut_in_half(root / "xuzhimo" / WEIGHTS)
    assert digest(registry, "xuzhimo") == before
    write_weights(root / "xuzhimo" / WEIGHTS, mlx_tensors(seed=8))
    after = digest(registry, "xuzhimo")
    assert after != before
    cut_in_half(root / "xuzhimo" / WEIGHTS)
    assert digest(registry, "xuzhimo") == after


def test_a_broken_adapter_that_is_mended_is_served_again(
    registry: AdapterRegistry, root: Path
) -> None:
    before = digest(registry, "xuzhimo")
    cut_in_half(root / "xuzhimo" / WEIGHTS)
    age(root / "xuzhimo")
    refusal(registry, "xuzhimo")
    write_adapter(root / "xuzhimo", seed=1)
    assert digest(registry, "xuzhimo") == before


def test_a_new_folder_that_is_half_written_is_refused_at_once(
    registry: AdapterRegistry, root: Path
) -> None:
    cut_in_half(write_adapter(root / "libai") / WEIGHTS)
    assert "is not a whole safetensors file" in refusal(registry, "libai")


def test_a_file_dated_in_the_future_does_not_hide_a_broken_one_for_ever(
    registry: AdapterRegistry, root: Path
) -> None:
    assert digest(registry, "xuzhimo")
    cut_in_half(root / "xuzhimo" / WEIGHTS)
    age(root / "xuzhimo")
    tomorrow = time.time() + 86_400
    os.utime(root / "xuzhimo" / "prompt.json", (tomorrow, tomorrow))
    refusal(registry, "xuzhimo")


def test_files_that_change_while_they_are_read_make_no_version_of_two_halves(
    registry: AdapterRegistry, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest would be that of the new files, the scale that of the old ones."""

    def publish_meanwhile(*args: Any) -> Any:
        planned = plan_adapter(*args)
        changed = mlx_config(lora_parameters={"rank": 4, "scale": 50.0})
        (root / "xuzhimo" / "adapter_config.json").write_text(json.dumps(changed))
        return planned

    with monkeypatch.context() as patch:
        patch.setattr(
            "verse_server.engine.adapters.version_reading.plan_adapter", publish_meanwhile
        )
        assert "changed while they were read" in refusal(registry, "xuzhimo")
    assert registry.version(AdapterPart("xuzhimo")).plan.scale == 50.0


def break_(folder: Path, how: str) -> None:
    """A whole folder, spoiled in one way."""
    weights, config = folder / WEIGHTS, folder / "adapter_config.json"
    other_tensors = {
        "other base": mlx_tensors({name: ModuleShape(32, 32) for name in BASE_MODULES}),
        "other architecture": mlx_tensors({"transformer.h.0.attn": ModuleShape(16, 16)}),
        "no rank": {n: np.ascontiguousarray(a[:0]) for n, a in peft_tensors(rank=1).items()},
    }
    other_configs: dict[str, dict[str, Any]] = {
        "full": {"fine_tune_type": "full"},
        "pickle": {"peft_type": "LORA"},
        "no rank": {"peft_type": "LORA", "r": 0},
        "bad pattern": {"peft_type": "LORA", "rank_pattern": {"[": 2}},
    }
    gone = {"no config": config, "no weights": weights, "pickle": weights}
    if how == "truncated":
        cut_in_half(weights)
    if how in other_tensors:
        write_weights(weights, other_tensors[how])
    if how in other_configs:
        config.write_text(json.dumps(other_configs[how]))
    if how in gone:
        gone[how].unlink()
    if how in ("pickle", "bad prompt"):
        name = "adapter_model.bin" if how == "pickle" else "prompt.json"
        (folder / name).write_bytes(b"\x80")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("truncated", "adapters.safetensors is not a whole safetensors file"),
        ("no config", "adapter_config.json is missing."),
        ("no weights", "adapters.safetensors is missing."),
        ("other base", "it was trained on another base or with another rank."),
        ("other architecture", "is a Linear layer of this base"),
        ("full", "it is a full fine-tune"),
        ("pickle", "its weights are a pickle, which is never opened"),
        ("bad pattern", "the pattern '[' in adapter_config.json"),
        ("no rank", "records a rank below 1"),
        ("bad prompt", "prompt.json cannot be read"),
    ],
)
def test_a_broken_folder_is_refused_with_its_reason_and_warned_of_in_one_line(
    registry: AdapterRegistry, root: Path, how: str, reason: str
) -> None:
    break_(write_adapter(root / "broken"), how)
    assert reason in refusal(registry, "broken")
    with pytest.raises(AdapterIncompatibleError):
        registry.model(AdapterPart("broken"))
    assert names(registry) == ["hushi", "xuzhimo"]
    (line,) = registry.warnings()
    assert line.startswith("The adapter 'broken' cannot be served: ")
    assert reason in line
    assert "\n" not in line


def test_there_is_one_warning_for_each_broken_folder_and_none_for_the_others(
    registry: AdapterRegistry, root: Path
) -> None:
    assert registry.warnings() == []
    for number in range(3):
        break_(write_adapter(root / f"broken{number}"), "no config")
    assert len(registry.warnings()) == 3


def test_folders_that_no_name_or_no_safe_path_leads_to_are_warned_of(
    registry: AdapterRegistry, root: Path
) -> None:
    for name in ("徐 志摩", "a+b", "v@2", ".cache"):
        write_adapter(root / name)
    (root / "link").symlink_to(write_adapter(root.parent / "secret"))
    lines = registry.warnings()
    assert len(lines) == 4
    for name in ("'徐 志摩'", "'a+b'", "'v@2'"):
        assert any(name in line and "rename the folder" in line for line in lines)
    assert any("'link'" in line and "copy the files" in line for line in lines)


def test_a_name_that_is_no_text_stops_nobody(registry: AdapterRegistry, root: Path) -> None:
    try:
        (root / os.fsdecode(b"\xff\xfe")).mkdir()
    except OSError:
        pytest.skip("this file system takes only names that are text")
    assert names(registry) == ["hushi", "xuzhimo"]
    (line,) = registry.warnings()
    line.encode()


def test_a_folder_that_may_not_be_read_is_refused_with_the_reason(
    registry: AdapterRegistry, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Played, because tests may run as root, whom nothing stops."""
    real_iterdir = Path.iterdir

    def guarded(self: Path) -> Iterator[Path]:
        if self.name == "hushi":
            raise PermissionError(13, "Permission denied")
        return real_iterdir(self)

    monkeypatch.setattr(Path, "iterdir", guarded)
    assert "cannot be read (Permission denied)" in refusal(registry, "hushi")
    assert names(registry) == ["xuzhimo"]
    assert len(registry.warnings()) == 1


def test_an_adapters_folder_that_goes_away_has_no_adapters_until_it_comes_back(
    registry: AdapterRegistry, root: Path
) -> None:
    assert len(names(registry)) == 2
    root.rename(root.parent / "away")
    assert names(registry) == []
    not_found(registry, "xuzhimo")
    (root.parent / "away").rename(root)
    assert len(names(registry)) == 2
