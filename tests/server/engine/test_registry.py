"""The adapters folder, looked at whenever somebody asks."""

import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from tests.server.engine.fixtures_files import (
    BASE_MODULES,
    LONG_AGO,
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
from verse.adapter_digest import file_digest
from verse.adapter_files import ModuleShape
from verse.model_spelling import AdapterPart
from verse_server.engine.adapters import registry as registry_module
from verse_server.engine.adapters.registry import AdapterRegistry
from verse_server.engine.errors import AdapterIncompatibleError
from verse_server.engine.types import CheckpointInfo

WEIGHTS = "adapters.safetensors"


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


def test_modules_that_the_base_does_not_have_are_listed_with_the_refusal(
    registry: AdapterRegistry, root: Path
) -> None:
    others = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(2, 7)]
    modules = {**BASE_MODULES, **dict.fromkeys(others, ModuleShape(16, 16))}
    write_adapter(root / "longer", tensors=mlx_tensors(modules))
    infos = {info.id: info for info in registry.folders()}
    assert (infos["longer"].state, infos["longer"].unmatched) == ("refused", tuple(others))
    assert (infos["xuzhimo"].state, infos["xuzhimo"].unmatched) == ("on_disk", ())
    with pytest.raises(AdapterIncompatibleError) as refused:
        registry.version(AdapterPart("longer"))
    assert refused.value.unmatched == tuple(others)


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
    monkeypatch.setattr("verse_server.engine.adapters.registry._MAX_VERSIONS", 2)
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
        assert go_on.wait(60)
        return file_digest(file)

    monkeypatch.setattr("verse_server.engine.adapters.version_reading.file_digest", slow_digest)
    thread = threading.Thread(target=digest, args=(registry, "xuzhimo"))
    thread.start()
    assert hashing.wait(60)
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


def test_a_new_best_leaves_the_version_of_older_weights_as_it_was(
    registry: AdapterRegistry, trained: Path
) -> None:
    steps = (100, 200, None)
    before = [digest(registry, "trained", step) for step in steps]
    history = [{"step": 100, "train_loss": 2.0}, {"step": 200, "train_loss": 1.5}]
    config = mlx_config(best_step=200, base_valid_loss=4.1, history=history)
    (trained / "adapter_config.json").write_text(json.dumps(config, indent=1))
    assert registry.version(AdapterPart("trained", "best")).name == "trained@200"
    assert [digest(registry, "trained", step) for step in steps] == before


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


def test_a_listing_of_many_folders_rests_between_pieces_of_work(
    registry: AdapterRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    monkeypatch.setattr(registry_module, "_WORK_SECONDS", 0.0)
    monkeypatch.setattr(time, "sleep", rests.append)
    registry.models()
    registry.folders()
    assert len(rests) >= 4
    assert min(rests) > 0
