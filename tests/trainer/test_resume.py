"""A run that was killed goes on as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.trainer.runs import POEMS, Runs, chat, files_of, pairs, quick, write_data, write_rows
from verse_trainer import checkpoint
from verse_trainer.checkpoint import read_state
from verse_trainer.config import LoraConfig, ScheduleConfig, TrainConfig
from verse_trainer.errors import TrainingError
from verse_trainer.events import Evaluated, Started, Stepped, Stopped, TrainReport
from verse_trainer.run_record import read_record

# Dropout, updates that span checkpoints, an epoch that ends inside one, samples, a schedule.
HARD: dict[str, Any] = {
    "epochs": 2,
    "grad_accumulation_steps": 2,
    "save_every": 1,
    "patience": None,
    "lr_schedule": ScheduleConfig(name="cosine_decay"),
    "steps_per_report": 4,
}


class Killed(BaseException):
    """Not an Exception: nothing may catch it."""


@contextmanager
def killed_at(count: int | None, monkeypatch: pytest.MonkeyPatch) -> Generator[list[int]]:
    """Die at the so-many-th moment at which something reaches the disk."""
    moments = [0]
    real = os.fsync

    def fsync(handle: int) -> None:
        moments[0] += 1
        if moments[0] == count:
            raise Killed
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield moments


def result(runs: Runs) -> dict[str, Any]:
    """All that a run leaves, times apart."""
    state = read_state(runs.folder)
    assert state is not None
    return {
        "files": files_of(runs.folder),
        "config": json.loads((runs.folder / "adapter_config.json").read_text()),
        "prompt": (runs.folder / "prompt.json").read_text(),
        "losses": [
            (m.step, m.train_loss if isinstance(m, TrainReport) else m.valid_loss)
            for m in checkpoint.read_metrics(runs.folder)
            if isinstance(m, TrainReport | Evaluated)
        ],
        "state": state.state,
    }


@pytest.fixture(scope="module")
def uninterrupted(tiny_base: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    runs = Runs(tiny_base, tmp_path_factory.mktemp("whole"))
    write_data(runs.data, num_train=5, num_valid=2)
    with quick(), pytest.MonkeyPatch.context() as patch, killed_at(None, patch) as moments:
        runs.train(runs.config(**HARD))
    return result(runs), moments[0]


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@settings(
    max_examples=10,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)
@given(data=st.data())
def test_killed_at_any_moment_and_resumed_it_ends_with_the_same_weights(
    data: st.DataObject, uninterrupted: Any, tiny_base: Any, tmp_path_factory: Any
) -> None:
    expected, num_moments = uninterrupted
    runs = Runs(tiny_base, tmp_path_factory.mktemp("killed"))
    write_data(runs.data, num_train=5, num_valid=2)
    kills = data.draw(st.lists(st.integers(1, num_moments), min_size=1, max_size=2))
    for count in kills:
        finished = read_record(runs.folder)
        config = runs.config(**HARD, resume=finished is not None)
        patched = pytest.MonkeyPatch.context()
        with patched as patch, suppress(Killed), killed_at(count, patch):
            runs.train(config)
    checkpoints = {
        file.name: file.stat().st_ino for file in runs.folder.glob("0*_adapters.safetensors")
    }
    runs.train(runs.config(**HARD, resume=read_record(runs.folder) is not None))
    assert result(runs) == expected
    for name, inode in checkpoints.items():
        assert (runs.folder / name).stat().st_ino == inode, f"{name} was written over"


def stop_after(step: int, runs: Runs) -> Any:
    return lambda: bool(runs.reported(Stepped)) and runs.reported(Stepped)[-1].step >= step


@pytest.mark.parametrize("step", [1, 3, 5])
def test_asked_to_stop_it_saves_and_goes_on_later(runs: Runs, step: int) -> None:
    whole = Runs(runs.base, runs.root / "whole")
    whole.train(whole.config(patience=None, grad_accumulation_steps=2))
    outcome = runs.train(
        runs.config(patience=None, grad_accumulation_steps=2), stop=stop_after(step, runs)
    )
    assert (outcome.reason, outcome.step) == ("interrupted", step)
    assert runs.events[-1] == Stopped(step=step, reason="interrupted")
    assert f"{step:07d}_adapters.safetensors" in files_of(runs.folder)
    assert (runs.folder / "adapters.safetensors").exists()
    runs.events.clear()
    runs.train(runs.config(patience=None, grad_accumulation_steps=2, resume=True))
    assert runs.reported(Started)[0].start_step == step
    assert runs.reported(Stepped)[0].step == step + 1
    mine = files_of(runs.folder)
    assert {name: mine[name] for name in files_of(whole.folder)} == files_of(whole.folder)
    record = read_record(runs.folder)
    assert record is not None
    assert (record.resumed, record.outcome) == ((step,), "finished")


def test_stopped_before_the_first_step_there_is_nothing_to_save(runs: Runs) -> None:
    assert runs.train(stop=lambda: True).step == 0
    assert files_of(runs.folder) == {}
    assert runs.train(runs.config(resume=True)).reason == "finished"


def test_a_finished_run_has_nothing_left_to_do(runs: Runs) -> None:
    runs.train()
    before = files_of(runs.folder)
    runs.events.clear()
    assert runs.train(runs.config(resume=True)).reason == "finished"
    assert runs.reported(Stepped) == []
    assert files_of(runs.folder) == before


def test_a_finished_run_can_be_made_longer(runs: Runs) -> None:
    runs.train(runs.config(epochs=1))
    runs.train(runs.config(epochs=2, resume=True))
    whole = Runs(runs.base, runs.root / "whole")
    whole.train(whole.config(epochs=2))
    assert files_of(runs.folder) == files_of(whole.folder)


def test_an_early_stop_stays_one_unless_patience_grows(runs: Runs) -> None:
    config = {"epochs": 30, "patience": 2, "learning_rate": 0.3}
    step = runs.train(runs.config(**config)).step
    assert runs.train(runs.config(**config, resume=True)).step == step
    more = runs.config(**{**config, "patience": 3}, resume=True)
    assert runs.train(more).step > step


def test_every_step_is_reported_once_in_the_metrics(runs: Runs) -> None:
    config = {"steps_per_report": 1, "patience": None}
    runs.train(runs.config(**config), stop=stop_after(6, runs))
    metrics = runs.folder / "metrics.jsonl"
    with metrics.open("ab") as stream:
        stream.write(b'{"event":"train","step":')  # killed while it was written
    runs.train(runs.config(**config, resume=True))
    reported = [m.step for m in checkpoint.read_metrics(runs.folder) if isinstance(m, TrainReport)]
    assert reported == list(range(1, 9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.5}, "learning_rate was 0.01 and is 0.5"),
        ({"batch_size": 3}, "batch_size was 2 and is 3"),
        ({"seed": 7}, "seed was 0 and is 7"),
        ({"lora_parameters": LoraConfig(rank=4, dropout=0.0)}, "lora_parameters was"),
        ({"optimizer": "sgd"}, 'optimizer was "adamw" and is "sgd"'),
        ({"prompt_format": "seed-chatml"}, 'prompt_format was "chat" and is "seed-chatml"'),
        ({"mask_prompt": False}, "mask_prompt was true and is false"),
        ({"save_every": 3}, "save_every was 4 and is 3"),
    ],
)
def test_a_run_with_another_configuration_is_not_resumed(
    runs: Runs, change: dict[str, Any], message: str
) -> None:
    runs.train(stop=stop_after(1, runs))
    before = files_of(runs.folder)
    with pytest.raises(TrainingError, match="cannot be resumed") as caught:
        runs.prepare(runs.config(**change, resume=True))
    assert message in str(caught.value)
    assert files_of(runs.folder) == before


def test_a_schedule_that_follows_from_the_length_holds_the_length(runs: Runs) -> None:
    planned = {"lr_schedule": ScheduleConfig(name="cosine_decay")}
    runs.train(runs.config(**planned), stop=stop_after(1, runs))
    with pytest.raises(TrainingError, match="lr_schedule was"):
        runs.prepare(runs.config(**planned, epochs=5, resume=True))


@pytest.mark.parametrize(
    ("file", "what"), [("train.jsonl", "the training rows"), ("valid.jsonl", "the validation rows")]
)
def test_a_run_with_other_data_is_not_resumed(runs: Runs, file: str, what: str) -> None:
    runs.train(stop=stop_after(1, runs))
    write_rows(runs.data / file, [chat("新", "一首新诗。"), *(chat(*poem) for poem in POEMS[:3])])
    with pytest.raises(TrainingError, match=f"{what} changed"):
        runs.prepare(runs.config(resume=True))


def test_a_run_on_another_base_is_not_resumed(runs: Runs, tmp_path: Path) -> None:
    from tests.trainer.runs import build_model, load

    runs.train(stop=stop_after(1, runs))
    other = Runs(load(build_model(tmp_path / "other", rms_norm_eps=1e-5)), runs.root)
    with pytest.raises(TrainingError, match="the base model changed"):
        other.prepare(other.config(resume=True))


def test_a_folder_may_move_and_speed_may_change(runs: Runs) -> None:
    runs.train(stop=stop_after(1, runs))
    moved = runs.root / "moved"
    runs.folder.rename(moved)
    changes = {"steps_per_report": 1, "clear_cache_threshold": 1 << 20, "max_seq_length": 250}
    config = runs.config(adapter_path=str(moved), **changes, resume=True)
    assert runs.train(config).reason == "finished"


def start_file(runs: Runs, name: str, seed: int = 0) -> str:
    start = Runs(runs.base, runs.root / name)
    start.train(start.config(epochs=1, seed=seed))
    return str(start.folder / "adapters.safetensors")


@pytest.mark.parametrize("again", [True, False])
def test_the_weights_it_started_from_may_be_given_again(runs: Runs, again: bool) -> None:
    file = start_file(runs, "start")
    runs.train(runs.config(resume_adapter_file=file), stop=stop_after(1, runs))
    config = runs.config(resume=True, resume_adapter_file=file if again else None)
    runs.train(config)
    whole = Runs(runs.base, runs.root / "whole")
    whole.train(whole.config(resume_adapter_file=file))
    mine = files_of(runs.folder)
    assert {name: mine[name] for name in files_of(whole.folder)} == files_of(whole.folder)


def test_other_weights_to_start_from_are_another_run(runs: Runs) -> None:
    file, other = start_file(runs, "start"), start_file(runs, "other", seed=1)
    runs.train(runs.config(resume_adapter_file=file), stop=stop_after(1, runs))
    with pytest.raises(TrainingError, match="resume_adapter_file changed"):
        runs.prepare(runs.config(resume=True, resume_adapter_file=other))


def test_a_run_that_saved_nothing_needs_the_weights_it_started_from(runs: Runs) -> None:
    file = start_file(runs, "start")
    runs.train(runs.config(resume_adapter_file=file), stop=lambda: True)
    with pytest.raises(TrainingError, match="give its resume_adapter_file again"):
        runs.prepare(runs.config(resume=True))
    again = runs.config(resume=True, resume_adapter_file=file)
    assert runs.train(again).reason == "finished"


def test_a_damaged_state_is_named(runs: Runs) -> None:
    runs.train(stop=stop_after(1, runs))
    file = runs.folder / "training_state.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(TrainingError, match=r"training_state\.safetensors cannot be read"):
        runs.prepare(runs.config(resume=True))


@pytest.mark.usefixtures("as_shipped")
def test_preferences_are_resumed_too(runs: Runs) -> None:
    for folder in (runs.data, runs.root / "whole" / "data"):
        write_rows(folder / "train.jsonl", pairs(5))
        write_rows(folder / "valid.jsonl", pairs(2))
    whole = Runs(runs.base, runs.root / "whole")
    whole.train(whole.config(method="dpo"))
    runs.train(runs.config(method="dpo"), stop=stop_after(2, runs))
    runs.train(runs.config(method="dpo", resume=True))
    mine = files_of(runs.folder)
    assert {name: mine[name] for name in files_of(whole.folder)} == files_of(whole.folder)


PROGRAM = """
import sys
from pathlib import Path
import msgspec
from verse.base_model import load_base_model
from verse_trainer import run
from verse_trainer.config import TrainConfig
from verse_trainer.run_record import read_record
config = msgspec.json.decode(sys.argv[1], type=TrainConfig)
resume = read_record(Path(config.adapter_path)) is not None
config = msgspec.structs.replace(config, resume=resume)
prepared = run.prepare(config, load_base_model(config.model))
run.train(prepared, lambda event: print(type(event).__name__, flush=True))
"""


def run_and_kill_after(config: TrainConfig, num_events: int | None) -> int:
    command = [sys.executable, "-c", PROGRAM, msgspec.json.encode(config).decode()]
    environment = {**os.environ, "MLX_DISABLE_COMPILE": "1"}  # as in the run that is not killed
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    seen = 0
    with process.stdout:
        for _ in process.stdout:
            seen += 1
            if seen == num_events:
                process.send_signal(signal.SIGKILL)
                break
    process.wait(60)
    return seen


@pytest.mark.slow
def test_killed_by_the_system_it_ends_with_the_same_weights(
    tiny_base: Any, runs: Runs, tmp_path: Path
) -> None:
    # A process of its own as well: what other tests left in this one may change last digits.
    whole = Runs(tiny_base, tmp_path / "whole")
    for each in (whole, runs):
        write_data(each.data, num_train=5, num_valid=2)
    run_and_kill_after(whole.config(**HARD), None)
    config = runs.config(**HARD)
    for num_events in (9, 5):
        run_and_kill_after(config, num_events)
    run_and_kill_after(config, None)
    assert result(runs) == result(whole)
