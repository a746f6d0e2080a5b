"""What goes wrong is one sentence, and nothing is lost."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.runs import POEMS, Runs, chat, files_of, write_data, write_rows
from verse import UserError
from verse_trainer import run
from verse_trainer.checkpoint import read_state
from verse_trainer.config import LoraConfig, ScheduleConfig
from verse_trainer.errors import ConfigError, DataSetError, TrainingError
from verse_trainer.events import Event, Saved, Stepped, Stopped
from verse_trainer.run_record import read_record
from verse_trainer.step import Stepper


def sentence_of(runs: Runs, kind: type[UserError], **changes: Any) -> str:
    with pytest.raises(kind) as caught:
        runs.train(runs.config(**changes))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_data_folder_without_rows(runs: Runs) -> None:
    runs.data.mkdir()
    assert "has no train.jsonl" in sentence_of(runs, DataSetError)


def test_a_base_without_a_chat_template(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs.base.hf_tokenizer, "chat_template", None)
    write_data(runs.data)
    assert "has no chat template: copy chat_template.jinja" in sentence_of(runs, DataSetError)
    assert not runs.folder.exists()


def test_an_empty_training_file(runs: Runs) -> None:
    write_rows(runs.data / "train.jsonl", [])
    assert "train.jsonl is empty" in sentence_of(runs, DataSetError)


def test_a_poem_longer_than_the_context(runs: Runs) -> None:
    write_rows(runs.data / "train.jsonl", [chat("河", "水。"), chat("海", "水" * 300)])
    sentence = sentence_of(runs, DataSetError, long_rows="stop")
    assert f"{runs.data}/train.jsonl:2: it has" in sentence
    assert "the model's context allows 256" in sentence
    assert not runs.folder.exists()


def test_a_folder_that_holds_an_adapter(runs: Runs) -> None:
    runs.train()
    before = {file.name: file.read_bytes() for file in runs.folder.iterdir()}
    assert "already holds an adapter" in sentence_of(runs, TrainingError)
    assert {file.name: file.read_bytes() for file in runs.folder.iterdir()} == before


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "0000003_adapters.safetensors", "run.json"]
)
def test_a_folder_with_only_a_part_of_one(runs: Runs, name: str) -> None:
    runs.folder.mkdir()
    (runs.folder / name).write_text("{}")
    assert "already holds an adapter" in sentence_of(runs, TrainingError)


def test_a_folder_with_other_things_in_it_is_fine(runs: Runs) -> None:
    runs.folder.mkdir()
    (runs.folder / "notes.txt").write_text("mine")
    runs.train(runs.config(epochs=1))
    assert (runs.folder / "notes.txt").read_text() == "mine"


def test_an_adapter_path_that_is_a_file(runs: Runs) -> None:
    runs.folder.write_text("")
    assert "is a file" in sentence_of(runs, TrainingError)


def test_nothing_to_resume(runs: Runs) -> None:
    assert "holds no run to resume" in sentence_of(runs, TrainingError, resume=True)


def test_a_start_that_is_not_there(runs: Runs) -> None:
    sentence = sentence_of(runs, TrainingError, resume_adapter_file="nowhere.safetensors")
    assert "nowhere.safetensors is not a file" in sentence


def test_modules_that_the_model_does_not_have(runs: Runs) -> None:
    parameters = LoraConfig(keys=("q_proj",))
    sentence = sentence_of(runs, ConfigError, lora_parameters=parameters)
    assert "self_attn.q_proj" in sentence
    assert not runs.folder.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer_config": {"adamw": {"beta": 3}}},
        {"lr_schedule": ScheduleConfig(name="linear_schedule", arguments=(1.0, 0.0, 0.0))},
    ],
)
def test_arguments_that_mlx_does_not_take(runs: Runs, changes: dict[str, Any]) -> None:
    assert "cannot be used" in sentence_of(runs, ConfigError, **changes)


@pytest.mark.usefixtures("as_shipped")
def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Stepper.step

    def step(self: Any, number: int, *args: Any, **keys: Any) -> Any:
        result = real(self, number, *args, **keys)
        return result._replace(loss=float("nan")) if number == 7 else result

    monkeypatch.setattr(Stepper, "step", step)
    sentence = sentence_of(runs, TrainingError)
    assert "is NaN after step 6" in sentence
    assert "the checkpoint of step 4 and those before are whole" in sentence
    assert "lower learning_rate" in sentence
    assert runs.events[-1] == Stopped(step=6, reason="nan")
    assert list(files_of(runs.folder)) == ["0000004_adapters.safetensors", "adapters.safetensors"]
    state, record = read_state(runs.folder), read_record(runs.folder)
    assert state is not None
    assert state.state.step == 4
    assert record is not None
    assert record.outcome == "nan"
    assert (runs.folder / "loss.png").exists()


def test_weights_that_blow_up_are_never_saved(runs: Runs) -> None:
    sentence = sentence_of(runs, TrainingError, learning_rate=1e38, optimizer="sgd", save_every=1)
    assert "lower learning_rate" in sentence
    for file in runs.folder.glob("*.safetensors"):
        import mlx.core as mx

        arrays: Any = mx.load(str(file))
        assert all(bool(mx.isfinite(array).all()) for array in arrays.values())


def fill_the_disk_after(events: int, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def fsync(handle: int) -> None:
        if len(runs.events) >= events:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("num_events", [0, 1, 7, 9, 10])
def test_a_full_disk_leaves_the_last_good_state(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, num_events: int
) -> None:
    with monkeypatch.context() as patch:
        fill_the_disk_after(num_events, runs, patch)
        sentence = sentence_of(runs, TrainingError, save_every=2)
    assert f"The disk of {runs.folder} is full" in sentence
    saved = [event.step for event in runs.reported(Saved)]
    if saved:
        assert f"the checkpoint of step {saved[-1]} and those before are whole" in sentence
    assert not list(runs.folder.glob(".*")), "half-written files were left"
    resume = read_record(runs.folder) is not None
    assert runs.train(runs.config(save_every=2, resume=resume)).reason == "finished"
    whole = Runs(runs.base, runs.root / "whole")
    whole.train(whole.config(save_every=2))
    assert files_of(runs.folder) == files_of(whole.folder)


def test_another_failure_of_the_disk_is_not_called_full(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(_handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error", "disk")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output"):
        runs.train()


def test_who_listens_may_fail_and_the_run_can_go_on(runs: Runs) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 5:
            raise RuntimeError("the terminal is gone")

    with pytest.raises(RuntimeError, match="gone"):
        runs.train(on_event=fail)
    runs.events.clear()
    assert runs.train(runs.config(resume=True)).reason == "finished"
    assert runs.reported(Stepped)[0].step == 5


def test_checking_needs_no_model_and_writes_nothing(runs: Runs, tmp_path: Path) -> None:
    write_data(runs.data)
    run.check(runs.config(model="nowhere"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    write_rows(runs.data / "test.jsonl", [chat(*POEMS[0])])
    run.check(runs.config(test=True))
