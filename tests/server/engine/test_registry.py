"""The adapters folder, looked at whenever somebody asks."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.server.engine.fixtures_files import (
    BASE_MODULES,
    mlx_config,
    mlx_tensors,
    peft_tensors,
    write_adapter,
    write_weights,
)
from verse.adapter_folder import file_digest
from verse.model_spelling import AdapterPart
from verse_server.engine.adapter_files import ModuleShape, plan_adapter
from verse_server.engine.errors import AdapterIncompatibleError, ModelNotFoundError
from verse_server.engine.registry import AdapterRegistry
from verse_server.engine.types import CheckpointInfo

LONG_AGO = 1_600_000_000
WEIGHTS = "adapters.safetensors"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "adapters"
    write_adapter(path / "xuzhimo", seed=1)
    write_adapter(path / "hushi", seed=2)
    (path / "README.md").write_text("not an adapter")
    return path


@pytest.fixture
def registry(root: Path) -> AdapterRegistry:
    return AdapterRegistry(root, "verse-tiny", BASE_MODULES)


def names(registry: AdapterRegistry) -> list[str]:
    return [info.id for info in registry.models()]


def digest(registry: AdapterRegistry, name: str, checkpoint: Any = None) -> str:
    return registry.version(AdapterPart(name, checkpoint)).digest


def not_found(registry: AdapterRegistry, name: str, checkpoint: Any = None) -> ModelNotFoundError:
    with pytest.raises(ModelNotFoundError) as caught:
        registry.version(AdapterPart(name, checkpoint))
    return caught.value


def refusal(registry: AdapterRegistry, name: str, checkpoint: Any = None) -> str:
    with pytest.raises(AdapterIncompatibleError) as caught:
        registry.version(AdapterPart(name, checkpoint))
    assert "\n" not in str(caught.value)
    return caught.value.reason


def age(folder: Path) -> None:
    """As if the last write had been long ago."""
    for path in (*folder.iterdir(), folder):
        os.utime(path, (LONG_AGO, LONG_AGO))


def cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def checkpoint(folder: Path, step: int, seed: int) -> Path:
    return write_weights(folder / f"{step:07d}_adapters.safetensors", mlx_tensors(seed=seed))


# What is there.


def test_every_adapter_is_listed_by_name(registry: AdapterRegistry) -> None:
    assert names(registry) == ["hushi", "xuzhimo"]


def test_an_adapter_says_what_it_is(registry: AdapterRegistry, root: Path) -> None:
    age(root / "xuzhimo")
    info = registry.model(AdapterPart("xuzhimo"))
    assert (info.id, info.parent, info.root) == ("xuzhimo", "verse-tiny", "verse-tiny")
    assert info.created == LONG_AGO
    assert (info.prompt_format, info.system) == ("chat", "写一首诗")
    assert info.checkpoints == ()
    assert info.digest == digest(registry, "xuzhimo")


def test_a_checkpoint_s_parent_is_its_adapter(registry: AdapterRegistry, root: Path) -> None:
    file = checkpoint(root / "xuzhimo", 200, seed=3)
    info = registry.model(AdapterPart("xuzhimo", 200))
    assert (info.id, info.parent, info.root) == ("xuzhimo@200", "xuzhimo", "verse-tiny")
    assert info.digest != digest(registry, "xuzhimo")
    expected = CheckpointInfo(id="xuzhimo@200", step=200, bytes=file.stat().st_size)
    assert registry.model(AdapterPart("xuzhimo")).checkpoints == (expected,)


def test_the_report_says_what_loading_will_do(registry: AdapterRegistry, root: Path) -> None:
    report = registry.model(AdapterPart("xuzhimo")).report
    assert report is not None
    assert (report.format, report.matched, report.unmatched) == ("mlx-lora", 4, ())
    assert (report.rank, report.scale, report.delta_norm) == (4, 2.0, None)
    assert report.bytes == (root / "xuzhimo" / WEIGHTS).stat().st_size
    assert report.digest == digest(registry, "xuzhimo")
    assert report.recorded_base == "models/verse-tiny"
    assert report.warnings == ()


def test_what_loading_found_out_is_kept_for_the_report(registry: AdapterRegistry) -> None:
    registry.record_load(digest(registry, "xuzhimo"), 3.5)
    for name, delta_norm in {"xuzhimo": 3.5, "hushi": None}.items():
        report = registry.model(AdapterPart(name)).report
        assert report is not None
        assert report.delta_norm == delta_norm


def test_the_report_warns_of_what_may_surprise(registry: AdapterRegistry, root: Path) -> None:
    write_adapter(root / "odd", config=mlx_config(model="Qwen/Qwen2.5-7B"), prompt=None)
    registry.record_load(digest(registry, "odd"), 0.0)
    report = registry.model(AdapterPart("odd")).report
    assert report is not None
    assert report.warnings == (
        "trained on Qwen/Qwen2.5-7B, served on verse-tiny",
        "prompt.json is missing; the chat format is assumed",
        "the update is zero: it changes nothing",
    )


@pytest.mark.parametrize("recorded", ["verse-tiny", "/home/poet/Verse-Tiny/", None])
def test_the_same_base_in_another_place_is_no_surprise(
    registry: AdapterRegistry, root: Path, recorded: str | None
) -> None:
    write_adapter(root / "odd", config=mlx_config(model=recorded))
    report = registry.model(AdapterPart("odd")).report
    assert report is not None
    assert report.warnings == ()


def test_where_no_format_is_recorded_none_is_claimed(registry: AdapterRegistry, root: Path) -> None:
    write_adapter(root / "odd", prompt=None)
    info = registry.model(AdapterPart("odd"))
    assert (info.prompt_format, info.system) == (None, None)


def test_a_peft_folder_is_an_adapter_like_any_other(registry: AdapterRegistry, root: Path) -> None:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
    write_adapter(root / "peft", config=config)
    write_weights(root / "peft" / "adapter_model.safetensors", peft_tensors())
    report = registry.model(AdapterPart("peft")).report
    assert report is not None
    assert (report.format, report.scale) == ("peft-lora", 2.0)
    assert not_found(registry, "peft", "best").nearest == ()


def test_a_version_handed_out_is_found_by_its_digest(registry: AdapterRegistry) -> None:
    version = registry.version(AdapterPart("xuzhimo"))
    assert registry.by_digest(version.digest) == version


def test_only_so_many_versions_are_remembered_and_the_last_asked_for_are_kept(
    registry: AdapterRegistry, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verse_server.engine.registry._MAX_VERSIONS", 2)
    first = digest(registry, "xuzhimo")
    second = digest(registry, "hushi")
    assert digest(registry, "xuzhimo") == first
    write_adapter(root / "libai", seed=3)
    third = digest(registry, "libai")
    assert {registry.by_digest(d).digest for d in (first, third)} == {first, third}
    with pytest.raises(KeyError):
        registry.by_digest(second)


# New, changed, removed.


def test_a_new_folder_counts_from_the_next_question_on(
    registry: AdapterRegistry, root: Path
) -> None:
    not_found(registry, "libai")
    write_adapter(root / "libai")
    assert digest(registry, "libai")
    assert names(registry) == ["hushi", "libai", "xuzhimo"]


def test_a_removed_folder_is_gone_at_the_next_question(
    registry: AdapterRegistry, root: Path
) -> None:
    assert digest(registry, "hushi")
    shutil.rmtree(root / "hushi")
    not_found(registry, "hushi")
    assert names(registry) == ["xuzhimo"]


def test_a_renamed_folder_is_found_under_its_new_name_only(
    registry: AdapterRegistry, root: Path
) -> None:
    before = digest(registry, "hushi")
    (root / "hushi").rename(root / "胡适")
    assert digest(registry, "胡适") == before
    not_found(registry, "hushi")
    assert names(registry) == ["xuzhimo", "胡适"]


@pytest.mark.parametrize("name", [WEIGHTS, "adapter_config.json", "prompt.json"])
def test_a_changed_file_is_another_version(
    registry: AdapterRegistry, root: Path, name: str
) -> None:
    before = registry.version(AdapterPart("xuzhimo"))
    other = write_adapter(
        root.parent / "other",
        seed=9,
        config=mlx_config(lora_parameters={"rank": 4, "scale": 5.0}),
        prompt='{"format": "seed-chatml"}',
    )
    (other / name).replace(root / "xuzhimo" / name)
    after = registry.version(AdapterPart("xuzhimo"))
    assert after.digest != before.digest
    assert registry.by_digest(before.digest) == before
    assert registry.by_digest(after.digest) == after


def test_files_that_do_not_count_are_no_other_version(
    registry: AdapterRegistry, root: Path
) -> None:
    before = registry.version(AdapterPart("xuzhimo"))
    (root / "xuzhimo" / "train.log").write_text("loss 2.1")
    assert registry.version(AdapterPart("xuzhimo")) is before


def test_a_rewritten_file_with_the_same_content_is_the_same_version(
    registry: AdapterRegistry, root: Path
) -> None:
    before = digest(registry, "xuzhimo")
    write_adapter(root / "xuzhimo", seed=1)
    age(root / "xuzhimo")
    assert digest(registry, "xuzhimo") == before


def test_new_and_removed_checkpoints_are_seen(registry: AdapterRegistry, root: Path) -> None:
    assert not_found(registry, "xuzhimo", 100).name == "xuzhimo@100"
    file = checkpoint(root / "xuzhimo", 100, seed=4)
    assert registry.version(AdapterPart("xuzhimo", 100)).name == "xuzhimo@100"
    checkpoint(root / "xuzhimo", 200, seed=5)
    info = registry.model(AdapterPart("xuzhimo"))
    assert [c.id for c in info.checkpoints] == ["xuzhimo@100", "xuzhimo@200"]
    file.unlink()
    assert not_found(registry, "xuzhimo", 100).nearest == ("xuzhimo@200",)


def test_a_copy_of_an_adapter_can_be_removed_without_harm_to_the_other(
    registry: AdapterRegistry, root: Path
) -> None:
    """Both have one digest, and loading goes by the digest."""
    before = digest(registry, "xuzhimo")
    shutil.copytree(root / "xuzhimo", root / "backup")
    assert digest(registry, "backup") == before
    shutil.rmtree(root / "backup")
    assert digest(registry, "xuzhimo") == before
    assert registry.by_digest(before).weights.exists()


def test_many_threads_may_ask_while_adapters_come_and_go(
    registry: AdapterRegistry, root: Path
) -> None:
    failures: list[Exception] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                registry.models()
                digest(registry, "xuzhimo")
            except Exception as error:  # noqa: BLE001  any at all fails the test
                failures.append(error)
            time.sleep(0.001)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(30):
        write_adapter(root / f"new{number % 5}", seed=number)
        if number % 3 == 0:
            shutil.rmtree(root / f"new{number % 5}")
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []


def test_the_engine_thread_does_not_wait_while_a_large_file_is_hashed(
    registry: AdapterRegistry, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = digest(registry, "hushi")
    hashing, go_on = threading.Event(), threading.Event()

    def slow_digest(file: Path) -> bytes:
        hashing.set()
        assert go_on.wait(10)
        return file_digest(file)

    monkeypatch.setattr("verse_server.engine.registry.file_digest", slow_digest)
    thread = threading.Thread(target=digest, args=(registry, "xuzhimo"))
    thread.start()
    assert hashing.wait(10)
    assert registry.by_digest(known).name == "hushi"
    registry.record_load(known, 1.0)
    go_on.set()
    thread.join()


# @best and @last.


@pytest.fixture
def trained(root: Path) -> Path:
    folder = write_adapter(root / "trained", config=mlx_config(best_step=100), seed=4)
    checkpoint(folder, 100, seed=4)
    checkpoint(folder, 200, seed=5)
    return folder


def test_best_is_the_checkpoint_with_the_recorded_step(
    registry: AdapterRegistry, trained: Path
) -> None:
    assert registry.version(AdapterPart("trained", "best")).name == "trained@100"


def test_best_is_the_published_one_where_its_checkpoint_was_cleaned_away(
    registry: AdapterRegistry, trained: Path
) -> None:
    (trained / "0000100_adapters.safetensors").unlink()
    assert registry.version(AdapterPart("trained", "best")).name == "trained"


def test_best_is_unknown_where_no_step_was_recorded(registry: AdapterRegistry, root: Path) -> None:
    checkpoint(root / "xuzhimo", 200, seed=3)
    error = not_found(registry, "xuzhimo", "best")
    assert (error.name, error.nearest) == ("xuzhimo@best", ("xuzhimo@200",))


def test_best_moves_with_the_record(registry: AdapterRegistry, trained: Path) -> None:
    assert registry.version(AdapterPart("trained", "best")).name == "trained@100"
    (trained / "adapter_config.json").write_text(json.dumps(mlx_config(best_step=200)))
    assert registry.version(AdapterPart("trained", "best")).name == "trained@200"


def test_last_is_the_newest_checkpoint(registry: AdapterRegistry, trained: Path) -> None:
    assert registry.version(AdapterPart("trained", "last")).name == "trained@200"
    checkpoint(trained, 300, seed=6)
    assert registry.version(AdapterPart("trained", "last")).name == "trained@300"


def test_last_is_the_published_one_where_there_are_no_checkpoints(
    registry: AdapterRegistry,
) -> None:
    assert registry.version(AdapterPart("xuzhimo", "last")).name == "xuzhimo"


def test_checkpoints_are_served_before_anything_is_published(
    registry: AdapterRegistry, trained: Path
) -> None:
    (trained / WEIGHTS).unlink()
    assert digest(registry, "trained", "last") == digest(registry, "trained", 200)
    assert "no published weights yet" in refusal(registry, "trained")


def test_a_broken_checkpoint_leaves_the_published_weights_alone(
    registry: AdapterRegistry, trained: Path
) -> None:
    cut_in_half(trained / "0000200_adapters.safetensors")
    assert "0000200_adapters.safetensors is not a whole" in refusal(registry, "trained", 200)
    assert registry.version(AdapterPart("trained")).name == "trained"


# Names.


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ("xuzhimo2", ("xuzhimo",)),
        ("XUZHIMO", ("xuzhimo",)),
        ("hushih", ("hushi",)),
        ("verse-tin", ("verse-tiny",)),
        ("libai", ()),
        ("README.md", ()),
    ],
)
def test_an_unknown_name_is_told_its_nearest(
    registry: AdapterRegistry, asked: str, nearest: tuple[str, ...]
) -> None:
    error = not_found(registry, asked)
    assert (error.name, error.nearest[:1]) == (asked, nearest)


def test_nearest_names_are_found_before_anybody_has_listed_the_folder(root: Path) -> None:
    fresh = AdapterRegistry(root, "verse-tiny", BASE_MODULES)
    assert not_found(fresh, "hushi2").nearest == ("hushi",)


def test_nearest_names_come_as_they_are_written(registry: AdapterRegistry, root: Path) -> None:
    write_adapter(root / "LiBai")
    assert not_found(registry, "libai").nearest == ("LiBai",)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files whose content was read, since a test has cleared the list."""
    files: list[Path] = []
    read_bytes, path_open = Path.read_bytes, Path.open

    def spy_read(self: Path) -> bytes:
        files.append(self)
        return read_bytes(self)

    def spy_open(self: Path, *args: Any, **kwargs: Any) -> Any:
        files.append(self)
        return path_open(self, *args, **kwargs)

    def spy_plan(file: Path, *args: Any) -> Any:
        files.append(file)
        return plan_adapter(file, *args)

    monkeypatch.setattr(Path, "read_bytes", spy_read)
    monkeypatch.setattr(Path, "open", spy_open)
    monkeypatch.setattr("verse_server.engine.registry.plan_adapter", spy_plan)
    return files


def was_opened(opened: list[Path], folder: Path) -> bool:
    return any(file.resolve().is_relative_to(folder.resolve()) for file in opened)


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "..",
        ".",
        "",
        "xuzhimo/../../secret",
        "xuzhimo/../hushi",
        "xuzhimo/",
        "./xuzhimo",
        "xuzhimo\0",
        "xuzhimo\ud800",
        "..\\secret",
        "x" * 5000,
        "/",
        "absolute",
    ],
)
def test_no_spelling_leads_out_of_the_folder(
    registry: AdapterRegistry, root: Path, opened: list[Path], name: str
) -> None:
    secret = write_adapter(root.parent / "secret")
    registry.models()
    opened.clear()
    not_found(registry, str(secret) if name == "absolute" else name)
    assert opened == []
    assert names(registry) == ["hushi", "xuzhimo"]


def test_a_folder_that_is_a_link_out_is_not_found_and_never_opened(
    registry: AdapterRegistry, root: Path, opened: list[Path]
) -> None:
    secret = write_adapter(root.parent / "secret")
    (root / "link").symlink_to(secret)
    (root / "relative").symlink_to("../secret")
    opened.clear()
    for name in ("link", "relative"):
        not_found(registry, name)
    assert names(registry) == ["hushi", "xuzhimo"]
    assert not was_opened(opened, secret)


@pytest.mark.parametrize("name", [WEIGHTS, "adapter_config.json", "prompt.json", "notes.txt"])
def test_a_folder_with_a_link_out_is_not_found_and_nothing_behind_it_is_opened(
    registry: AdapterRegistry, root: Path, opened: list[Path], name: str
) -> None:
    secret = write_adapter(root.parent / "secret")
    (secret / "notes.txt").write_text("secret")
    folder = write_adapter(root / "linked")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret / name)
    opened.clear()
    not_found(registry, "linked")
    assert names(registry) == ["hushi", "xuzhimo"]
    assert not was_opened(opened, secret)


def test_a_file_replaced_by_a_link_out_takes_the_adapter_away(
    registry: AdapterRegistry, root: Path, opened: list[Path]
) -> None:
    secret = write_adapter(root.parent / "secret")
    assert digest(registry, "xuzhimo")
    (root / "xuzhimo" / WEIGHTS).unlink()
    (root / "xuzhimo" / WEIGHTS).symlink_to(secret / WEIGHTS)
    opened.clear()
    not_found(registry, "xuzhimo")
    assert not was_opened(opened, secret)


def test_a_folder_replaced_by_a_link_out_takes_the_adapter_away(
    registry: AdapterRegistry, root: Path, opened: list[Path]
) -> None:
    assert digest(registry, "xuzhimo")
    (root / "xuzhimo").rename(root.parent / "moved")
    (root / "xuzhimo").symlink_to(root.parent / "moved")
    opened.clear()
    not_found(registry, "xuzhimo")
    assert not was_opened(opened, root.parent / "moved")


def test_a_link_between_files_inside_the_folder_is_fine(
    registry: AdapterRegistry, root: Path
) -> None:
    checkpoint(root / "xuzhimo", 100, seed=7)
    (root / "xuzhimo" / WEIGHTS).unlink()
    (root / "xuzhimo" / WEIGHTS).symlink_to("0000100_adapters.safetensors")
    assert digest(registry, "xuzhimo") == digest(registry, "xuzhimo", 100)


def test_the_adapters_folder_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert names(AdapterRegistry(tmp_path / "link", "verse-tiny", BASE_MODULES)) == [
        "hushi",
        "xuzhimo",
    ]


def test_links_in_a_circle_and_links_to_nothing_stop_nobody(
    registry: AdapterRegistry, root: Path
) -> None:
    (root / "circle").symlink_to(root / "circle")
    (root / "nothing").symlink_to(root / "gone")
    (root / "xuzhimo" / "circle").symlink_to(root / "xuzhimo" / "circle")
    (root / "xuzhimo" / "0000300_adapters.safetensors").symlink_to(root / "gone")
    assert names(registry) == ["hushi", "xuzhimo"]
    for name in ("circle", "nothing"):
        not_found(registry, name)
    assert registry.warnings() == []


@pytest.mark.parametrize("name", ["base", "verse-tiny"])
def test_an_adapter_with_the_name_of_the_base_is_refused_not_shadowed(
    registry: AdapterRegistry, root: Path, name: str
) -> None:
    write_adapter(root / name)
    assert "rename the folder" in refusal(registry, name)
    assert names(registry) == ["hushi", "xuzhimo"]


# Half-written and broken.


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
        patch.setattr("verse_server.engine.registry.plan_adapter", publish_meanwhile)
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
