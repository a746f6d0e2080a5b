"""A whole run: what it tells, what it leaves behind, and who can read it."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import msgspec
import pytest

from tests.trainer.runs import (
    POEMS,
    Runs,
    chat,
    files_of,
    fresh,
    read_weights,
    weights_of,
    write_data,
    write_rows,
)
from verse.adapter_folder import read_adapter_folder
from verse.prompt import POEM_SYSTEM, PromptFormat
from verse_trainer import checkpoint, evaluation, events, lora, run
from verse_trainer.config import LoraConfig, ScheduleConfig
from verse_trainer.evaluation import evaluate
from verse_trainer.events import (
    Evaluated,
    Sampled,
    Saved,
    Started,
    Stepped,
    Stopped,
    TrainReport,
)
from verse_trainer.run_record import read_record


@pytest.mark.usefixtures("as_shipped")
def test_a_run_learns_and_leaves_an_adapter_behind(runs: Runs) -> None:
    outcome = runs.train(runs.config(epochs=4, patience=None))
    assert (outcome.reason, outcome.step) == ("finished", 16)
    assert outcome.base_valid_loss is not None
    assert outcome.best_valid_loss is not None
    assert outcome.best_valid_loss < outcome.base_valid_loss
    assert [event.step for event in runs.reported(Saved)] == [4, 8, 12, 16]
    assert sorted(file.name for file in runs.folder.iterdir()) == [
        "0000004_adapters.safetensors",
        "0000008_adapters.safetensors",
        "0000012_adapters.safetensors",
        "0000016_adapters.safetensors",
        "adapter_config.json",
        "adapters.safetensors",
        "loss.png",
        "metrics.jsonl",
        "prompt.json",
        "run.json",
        "training_state.safetensors",
    ]


def test_it_tells_every_step_report_evaluation_and_checkpoint(runs: Runs) -> None:
    runs.train()
    assert isinstance(runs.events[0], Started)
    assert runs.events[0] == Started(steps=8, epochs=2.0, updates=8, start_step=0)
    assert [event.step for event in runs.reported(Stepped)] == list(range(1, 9))
    assert [event.step for event in runs.reported(TrainReport)] == [3, 6, 8]
    assert [event.step for event in runs.reported(Evaluated)] == [0, 4, 8]
    assert runs.events[-1] == Stopped(step=8, reason="finished")
    last = runs.reported(TrainReport)[-1]
    assert last.epoch == 2.0
    assert last.trained_tokens == sum(event.tokens for event in runs.reported(Stepped))
    assert last.eta_seconds == 0
    assert last.peak_memory_bytes > 0
    first = runs.reported(TrainReport)[0]
    assert first.tokens_per_second > 0
    assert first.eta_seconds > 0


def test_the_metrics_file_holds_the_events_word_for_word(runs: Runs) -> None:
    runs.train()
    kept = [e for e in runs.events if isinstance(e, TrainReport | Evaluated | Stopped)]
    assert checkpoint.read_metrics(runs.folder) == kept
    lines = (runs.folder / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["event"] for line in lines} == {"train", "valid", "stopped"}


def test_the_numbers_before_the_first_step_are_right(runs: Runs) -> None:
    prepared = runs.prepare()
    rows = prepared.material.rows["train"]
    assert (prepared.num_rows, prepared.num_valid_rows, prepared.never_seen) == (7, 3, 0)
    assert prepared.num_tokens == sum(len(row.token_ids) for row in rows)
    assert prepared.num_target_tokens == sum(len(row.targets) for row in rows)
    assert (prepared.steps_per_epoch, prepared.total_steps, prepared.start_step) == (4, 8, 0)
    assert prepared.longest.num_tokens == max(row.num_tokens for row in rows)
    assert prepared.longest.place == f"{runs.data}/train.jsonl:7"
    assert prepared.trainable_parameters == lora.count_parameters(
        lora.trainable(prepared.base.model)
    )
    assert prepared.total_parameters == lora.count_base_parameters(runs.base.model)
    assert prepared.notes == ()


def test_measuring_one_step_changes_nothing(runs: Runs) -> None:
    prepared = runs.prepare()
    before = weights_of(prepared)
    measured = prepared.one_step()
    assert weights_of(prepared) == before
    assert measured.seconds > 0
    assert measured.tokens > 0
    assert measured.peak_bytes > runs.base.bytes
    run.train(prepared, lambda _event: None)
    measured_first = files_of(runs.folder)
    other = Runs(runs.base, runs.root / "other")
    other.train()
    assert files_of(other.folder) == measured_first


def test_the_published_weights_are_the_best_ones(runs: Runs) -> None:
    outcome = runs.train(runs.config(epochs=30, patience=2, learning_rate=0.3))
    losses = {event.step: event.valid_loss for event in runs.reported(Evaluated) if event.step}
    assert outcome.best_step == min(losses, key=lambda step: losses[step])
    assert outcome.best_step != outcome.step, "an early stop comes after the best"
    files = files_of(runs.folder)
    assert files["adapters.safetensors"] == files[f"{outcome.best_step:07d}_adapters.safetensors"]
    folder = read_adapter_folder(runs.folder)
    assert getattr(folder.config, "best_step") == outcome.best_step  # noqa: B009
    assert folder.last_step == outcome.step


def test_the_loss_of_a_checkpoint_is_that_of_its_weights(runs: Runs) -> None:
    runs.train()
    reported = {event.step: event.valid_loss for event in runs.reported(Evaluated)}
    for step in (4, 8):
        prepared = Runs(runs.base, runs.root / f"again{step}").prepare(
            runs.config(adapter_path=str(runs.root / "unused"))
        )
        file = runs.folder / f"{step:07d}_adapters.safetensors"
        prepared.base.model.load_weights(str(file), strict=False)
        measured = evaluate(prepared.base.model, prepared.objective, "valid", batch_size=1)
        assert measured is not None
        assert measured.loss == pytest.approx(reported[step], rel=1e-5)


def test_the_configuration_tells_the_history(runs: Runs) -> None:
    outcome = runs.train()
    config = json.loads((runs.folder / "adapter_config.json").read_text())
    assert config["base_valid_loss"] == outcome.base_valid_loss
    assert config["best_step"] == outcome.best_step
    reported = {event.step: event.valid_loss for event in runs.reported(Evaluated)}
    assert [(e["step"], e["valid_loss"]) for e in config["history"]] == [
        (4, reported[4]),
        (8, reported[8]),
    ]
    assert all(math.isfinite(entry["train_loss"]) for entry in config["history"])


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_plain_mlx_lm_loads_the_folder_and_computes_the_same(runs: Runs, kind: str) -> None:
    prepared = runs.prepare(
        runs.config(fine_tune_type=kind, num_layers=1, epochs=1, layer_cache=False)
    )
    run.train(prepared, lambda _event: None)
    ids = mx.array([[5, 9, 100, 7]])
    loaded: Any = mlx_lm.load(str(runs.base.path), adapter_path=str(runs.folder))[0]
    prepared.base.model.eval()
    trained: Any = prepared.base.model
    assert mx.allclose(loaded(ids), trained(ids), atol=1e-4)
    config = json.loads((runs.folder / "adapter_config.json").read_text())
    assert config["fine_tune_type"] == kind
    assert config["num_layers"] == 1


def test_the_prompt_format_is_recorded(runs: Runs) -> None:
    runs.train(runs.config(epochs=1))
    recorded = msgspec.json.decode((runs.folder / "prompt.json").read_bytes(), type=PromptFormat)
    assert (recorded.format, recorded.system) == ("chat", POEM_SYSTEM)
    assert recorded.stop == ("<|im_end|>",)
    assert recorded.template_sha256 is not None


def test_the_record_says_where_the_weights_come_from_and_names_no_place(runs: Runs) -> None:
    write_data(runs.data)
    runs.train(runs.config(epochs=1))
    record = read_record(runs.folder)
    assert record is not None
    assert record.base == "tiny"
    assert (record.num_rows, record.num_valid_rows) == (7, 3)
    assert record.valid_sources == tuple(f"poem-{theme}" for theme, _ in POEMS[7:10])
    assert {"verse", "mlx", "mlx-lm", "python"} <= record.versions.keys()
    assert record.config["learning_rate"] == 1e-2
    assert record.outcome == "finished"
    assert record.finished is not None
    assert record.finished >= record.started
    for file in ("run.json", "adapter_config.json", "prompt.json"):
        text = (runs.folder / file).read_text()
        assert str(Path(runs.root)) not in text
        assert str(runs.base.path.parent) not in text


@pytest.mark.usefixtures("as_shipped")
def test_the_curve_is_drawn(runs: Runs) -> None:
    runs.train()
    assert (runs.folder / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_curve_needs_no_evaluation(tmp_path: Path) -> None:
    checkpoint.draw_losses(tmp_path, [], "token")
    assert (tmp_path / "loss.png").stat().st_size > 1000


@pytest.mark.usefixtures("as_shipped")
def test_without_matplotlib_a_run_ends_as_well_and_draws_nothing(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert runs.train(runs.config(iters=1)).reason == "finished"
    assert not (runs.folder / "loss.png").exists()


def test_it_stops_early_when_nothing_gets_better(runs: Runs) -> None:
    outcome = runs.train(runs.config(epochs=30, patience=2, learning_rate=0.3))
    assert outcome.reason == "early_stop"
    assert outcome.best_step is not None
    assert outcome.step == outcome.best_step + 2 * 4
    assert runs.events[-1] == Stopped(step=outcome.step, reason="early_stop")


def test_a_key_that_sounds_like_a_verdict_is_noted_once_for_its_file(runs: Runs) -> None:
    rows = [{**chat(theme, poem), "quality": "bad"} for theme, poem in POEMS[:4]]
    train = write_rows(runs.data / "train.jsonl", rows)
    write_rows(runs.data / "valid.jsonl", [chat(*POEMS[4])])
    assert runs.prepare().notes == (
        f"{train}:1: quality: bad reads like a verdict, which Verse does not know; "
        "the rows of this file were taken whatever it says.",
    )


def test_without_a_valid_set_the_last_weights_are_published(runs: Runs) -> None:
    write_data(runs.data, num_valid=0)
    prepared = runs.prepare()
    assert "no validation rows" in prepared.notes[0]
    outcome = run.train(prepared, runs.events.append)
    assert (outcome.best_step, outcome.base_valid_loss) == (None, None)
    assert runs.reported(Evaluated) == []
    files = files_of(runs.folder)
    assert files["adapters.safetensors"] == files["0000008_adapters.safetensors"]
    assert "best_step" not in json.loads((runs.folder / "adapter_config.json").read_text())


def test_an_empty_valid_file_is_as_none(runs: Runs) -> None:
    write_data(runs.data, num_valid=0)
    (runs.data / "valid.jsonl").write_text("")
    assert runs.prepare().num_valid_rows == 0


@pytest.mark.parametrize(
    ("num_train", "num_valid", "batch_size"), [(1, 1, 4), (3, 1, 8), (2, 0, 2)]
)
def test_few_rows_are_enough(runs: Runs, num_train: int, num_valid: int, batch_size: int) -> None:
    write_data(runs.data, num_train, num_valid)
    outcome = runs.train(runs.config(batch_size=batch_size, epochs=2))
    assert outcome.step == 2
    if num_valid == 1:
        assert runs.reported(Evaluated)[0].standard_error is None


def test_the_test_set_is_measured_with_the_best_weights(runs: Runs) -> None:
    write_data(runs.data)
    valid = [chat(theme, poem) for theme, poem in POEMS[7:10]]
    write_rows(runs.data / "test.jsonl", valid)
    outcome = runs.train(runs.config(test=True, epochs=5, patience=None, learning_rate=0.1))
    (tested,) = runs.reported(events.Tested)
    assert tested.step == outcome.best_step
    assert tested.test_loss == pytest.approx(outcome.best_valid_loss, rel=1e-5)
    assert tested.perplexity == pytest.approx(math.exp(tested.test_loss))
    alone = evaluation.measure_test_set(
        runs.config(train=False, test=True), fresh(runs.base), lambda _event: None
    )
    assert alone.test_loss == pytest.approx(tested.test_loss, rel=1e-5)


def test_poems_are_written_on_the_way(runs: Runs) -> None:
    runs.train(runs.config(sample_every=6, sample_themes=("河", "灯")))
    samples = runs.reported(Sampled)
    assert [(sample.step, sample.theme) for sample in samples] == [(6, "河"), (6, "灯")]
    assert all(sample.text for sample in samples)
    lines = (runs.folder / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["theme"] for line in lines] == ["河", "灯"]


def test_sampling_and_measuring_leave_the_weights_as_they_would_be(runs: Runs) -> None:
    runs.train(runs.config(save_every=8))
    busy = Runs(runs.base, runs.root / "busy")
    busy.train(busy.config(save_every=8, steps_per_eval=1, sample_every=2))
    last = "0000008_adapters.safetensors"
    assert files_of(runs.folder)[last] == files_of(busy.folder)[last]


def test_gradient_checkpoints_give_the_same_weights_and_are_taken_back(runs: Runs) -> None:
    model: Any = runs.base.model
    block = type(model.layers[0])
    before = block.__call__
    runs.train(runs.config(epochs=1, lora_parameters=LoraConfig(rank=4, dropout=0.0)))
    other = Runs(runs.base, runs.root / "other")
    other.train(
        other.config(
            epochs=1, lora_parameters=LoraConfig(rank=4, dropout=0.0), grad_checkpoint=True
        )
    )
    assert block.__call__ is before
    name = "0000004_adapters.safetensors"
    mine, theirs = (read_weights(r.folder / name) for r in (runs, other))
    assert all(mx.allclose(mine[key], theirs[key], atol=1e-5) for key in mine)


@pytest.mark.parametrize("name", ["adam", "adamw", "muon", "sgd", "adafactor"])
def test_every_optimizer_learns(runs: Runs, name: str) -> None:
    outcome = runs.train(runs.config(optimizer=name, epochs=1, learning_rate=0.01))
    assert outcome.reason == "finished"
    weights = read_weights(runs.folder / "adapters.safetensors")
    assert all(bool(mx.isfinite(array).all()) for array in weights.values())
    assert any(bool(mx.any(array != 0)) for key, array in weights.items() if "lora_b" in key)


def test_a_schedule_that_leaves_its_length_to_the_run_ends_with_it(runs: Runs) -> None:
    schedule = ScheduleConfig(name="linear_schedule", warmup=2)
    runs.train(runs.config(lr_schedule=schedule, learning_rate=0.01, steps_per_report=1))
    rates = [report.learning_rate for report in runs.reported(TrainReport)]
    assert rates[0] == 0
    assert max(rates) == pytest.approx(0.01, rel=0.2)
    assert rates == sorted(rates[:3]) + sorted(rates[3:], reverse=True)
    assert rates[-1] < 0.004
