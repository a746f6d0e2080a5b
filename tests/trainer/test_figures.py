"""Every figure of a run is counted or measured: none is a constant, each has its right value."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
import pytest

from tests.trainer.runs import POEMS, Runs, chat, fresh, pairs, quick, write_data, write_rows
from verse_trainer import evaluation, events, lora
from verse_trainer.events import (
    Evaluated,
    Event,
    Forecast,
    Sampled,
    Started,
    Stepped,
    TrainReport,
)
from verse_trainer.loop import Outcome, TrainingLoop
from verse_trainer.preflight import caching_seconds, forecast
from verse_trainer.run import MeasuredStep, PreparedRun
from verse_trainer.run_record import RunRecord, base_revision, read_record

ONE_SECOND = 1.0


class Example:
    """A run, what it reported and what it left, on a clock that ticks at every look."""

    def __init__(self, runs: Runs, stop_at: int | None = None, **keys: Any) -> None:
        prepared = runs.prepare(runs.config(**keys))
        self.prepared = prepared
        self.trained_rows: set[int] = set()
        self.forecast = forecast(prepared, measured(prepared), 10_000_000 + prepared.num_rows)
        self.events: list[Event] = []
        self._watch(prepared)
        clock = itertools.count(0.0, ONE_SECOND)
        loop = TrainingLoop(prepared, self.events.append, lambda: next(clock))
        self.outcome: Outcome = loop.run(lambda: len(self.of(Stepped)) == stop_at)
        record = read_record(runs.folder)
        assert record is not None
        self.record = record

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def _watch(self, prepared: PreparedRun) -> None:
        batch = prepared.objective.batch

        def watched(part: Any, indices: Any) -> Any:
            if part == "train":
                self.trained_rows |= set(indices)
            return batch(part, indices)

        prepared.objective.batch = watched


def measured(prepared: PreparedRun) -> MeasuredStep:
    return MeasuredStep(
        seconds=prepared.total_steps / 10,
        tokens=100 + prepared.num_rows,
        peak_bytes=5_000_000 * prepared.total_steps,
    )


@pytest.fixture(scope="module")
def examples(tiny_base: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """One short of an epoch, one made longer, one with preferences, one interrupted."""
    root = tmp_path_factory.mktemp("figures")
    names = ("short", "long", "dpo", "stopped")
    short, long, preferences, stopped = (Runs(tiny_base, root / name) for name in names)
    for runs in (short, long):
        write_data(runs.data)
        write_rows(runs.data / "test.jsonl", [chat(*POEMS[10]), chat(*POEMS[11])])
    write_data(short.data, num_train=6, num_valid=3)
    write_data(long.data, num_train=9, num_valid=1)
    write_rows(preferences.data / "train.jsonl", pairs(5))
    write_rows(preferences.data / "valid.jsonl", pairs(2))
    write_rows(preferences.data / "test.jsonl", [chat(*POEMS[11])])
    with quick():
        long.train(long.config(iters=6, batch_size=4))
        return _examples(short, long, preferences, stopped)


def _examples(short: Runs, long: Runs, preferences: Runs, stopped: Runs) -> list[Example]:
    return [
        Example(short, iters=2, test=True, num_layers=1, sample_every=2, sample_themes=("河",)),
        Example(
            long,
            iters=12,
            batch_size=4,
            grad_accumulation_steps=1,
            resume=True,
            grad_checkpoint=True,
            test=True,
            sample_every=4,
            sample_themes=("灯",),
            patience=None,
            learning_rate=1e-2,
        ),
        Example(
            preferences,
            method="dpo",
            epochs=2,
            grad_accumulation_steps=2,
            test=True,
            learning_rate=0.1,
        ),
        Example(stopped, stop_at=1),
    ]


def figures_of(kind: type[Any], found: list[Any]) -> Iterator[tuple[str, set[str]]]:
    assert found
    for field in msgspec.structs.fields(kind):
        yield field.name, {repr(getattr(each, field.name)) for each in found}


@pytest.mark.parametrize("kind", [Started, Stepped, TrainReport, Evaluated, Sampled, events.Tested])
def test_no_figure_of_an_event_is_a_constant(examples: list[Example], kind: type[Any]) -> None:
    found = [event for example in examples for event in example.of(kind)]
    # The clock of this test makes every step and validation one second; whether a copy is found is
    # seen in test_sampling.py, and how much memory there is in use below.
    same = {"seconds", "iterations_per_second", "copy_run", "copy_source", "peak_memory_bytes"}
    constant = {name for name, values in figures_of(kind, found) if len(values) < 2}
    assert constant <= same


def test_no_figure_of_a_forecast_or_a_record_is_a_constant(examples: list[Example]) -> None:
    found = [example.forecast for example in examples]
    constant = {name for name, values in figures_of(Forecast, found) if len(values) < 2}
    assert constant == {"total_parameters"}  # of the one base that they have; see below
    records = [example.record for example in examples]
    of_this_machine = {"versions", "base", "base_revision", "finished", "started"}
    constant = {name for name, values in figures_of(RunRecord, records) if len(values) < 2}
    assert constant <= of_this_machine | {"packs_rows"}  # of every base of this kind


def test_rows_never_seen_are_those_that_were_never_trained(examples: list[Example]) -> None:
    short, long, preferences, _ = examples
    for example in (short, preferences):
        unseen = example.prepared.num_rows - len(example.trained_rows)
        assert example.forecast.never_seen == unseen
    assert short.forecast.never_seen == 2
    assert preferences.forecast.never_seen == 0
    assert long.forecast.never_seen == 0, "what was trained before it was resumed is seen too"
    assert (short.forecast.never_seen_by_mlx_lm, long.forecast.never_seen_by_mlx_lm) == (2, 1)


def test_speeds_and_the_time_left_follow_from_the_clock(examples: list[Example]) -> None:
    for example in examples:
        steps = {event.step: event.tokens for event in example.of(Stepped)}
        reported = example.prepared.start_step
        for report in example.of(TrainReport):
            tokens = [steps[step] for step in range(reported + 1, report.step + 1)]
            assert report.iterations_per_second == pytest.approx(1 / ONE_SECOND)
            assert report.tokens_per_second == pytest.approx(sum(tokens) / len(tokens))
            cadence = example.prepared.cadence
            left = cadence.total_steps - report.step
            evaluations = cadence.num_checkpoints_after(report.step)
            has_measured = any(e.step < report.step for e in example.of(Evaluated))
            assert report.eta_seconds == pytest.approx(left + evaluations * has_measured)
            reported = report.step
        assert {event.seconds for event in example.of(Evaluated)} == {ONE_SECOND}
        peaks = [report.peak_memory_bytes for report in example.of(TrainReport)]
        assert peaks == sorted(peaks)
        assert all(peak >= example.prepared.base.bytes for peak in peaks)


def test_the_forecast_of_the_time_counts_steps_and_validations(examples: list[Example]) -> None:
    for example in examples:
        prepared, step = example.prepared, measured(example.prepared)
        left = prepared.total_steps - prepared.start_step
        tokens = prepared.num_tokens / prepared.steps_per_epoch * left
        checkpoints = len(
            [
                s
                for s in range(prepared.start_step + 1, prepared.total_steps + 1)
                if prepared.cadence.is_checkpoint(s)
            ]
        )
        validations = checkpoints + (prepared.start_step == 0)
        validated = prepared.num_valid_rows * prepared.num_tokens / prepared.num_rows
        expected = (tokens + validations * validated / 3) * step.seconds / step.tokens
        expected += caching_seconds(prepared, step)
        assert example.forecast.estimated_seconds == pytest.approx(expected)
        assert (caching_seconds(prepared, step) > 0) == (prepared.layer_cache is not None)


def test_the_record_has_what_the_run_came_to(examples: list[Example]) -> None:
    for example in examples:
        record, outcome = example.record, example.outcome
        assert (record.outcome, record.step) == (outcome.reason, outcome.step)
        assert (record.best_step, record.best_valid_loss) == (
            outcome.best_step,
            outcome.best_valid_loss,
        )
        assert record.base_valid_loss == outcome.base_valid_loss
        assert record.num_rows == example.prepared.num_rows
        assert record.num_valid_rows == example.prepared.num_valid_rows
    assert [example.record.resumed for example in examples] == [(), (6,), (), ()]


def test_the_record_is_complete_when_the_stop_is_reported(runs: Runs) -> None:
    outcomes: list[Any] = []

    def hear(event: Event) -> None:
        record = read_record(runs.folder)
        outcomes.append((type(event).__name__, record.outcome if record else None))

    runs.train(runs.config(iters=1), on_event=hear)
    assert outcomes[-1] == ("Stopped", "finished")


def test_the_revision_of_a_base_from_hugging_face_is_its_commit(runs: Runs, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    assert base_revision(replace(runs.base, path=snapshot)) == "0123abc"
    assert base_revision(runs.base) is None


def test_the_trained_share_is_counted_as_mlx_has_it(examples: list[Example], runs: Runs) -> None:
    model = fresh(runs.base).model
    total = sum(array.size for array in lora.trainable(model).values())
    for example in examples:
        assert example.forecast.total_parameters == total
        weights = mx.load(str(Path(example.prepared.folder) / "adapters.safetensors"))
        assert isinstance(weights, dict)
        assert example.forecast.trainable_parameters == sum(a.size for a in weights.values())


def test_the_test_set_is_measured_by_token_after_preferences_too(examples: list[Example]) -> None:
    preferences = examples[2]
    (tested,) = preferences.of(events.Tested)
    assert tested.step == preferences.outcome.best_step
    line = json.loads((preferences.prepared.folder / "metrics.jsonl").read_text().splitlines()[-2])
    assert line["test_loss"] == tested.test_loss
    alone = evaluation.measure_test_set(
        msgspec.structs.replace(preferences.prepared.config, train=False, method="sft"),
        fresh(preferences.prepared.base),
        lambda _event: None,
    )
    assert alone.test_loss == pytest.approx(tested.test_loss, rel=1e-5)


def test_a_copy_of_a_chosen_poem_is_found(examples: list[Example]) -> None:
    preferences = examples[2]
    poems = [text for _, text in preferences.prepared.material.poems]
    assert poems == [poem for _, poem in POEMS[:5]]
