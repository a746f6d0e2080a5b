"""What is reported before the first step."""

import itertools
from typing import Any

import msgspec
import pytest

from verse_trainer.config import LoraConfig, ScheduleConfig, TrainConfig
from verse_trainer.events import Forecast
from verse_trainer.memory import MemoryEstimate
from verse_trainer.preflight import (
    describe,
    duration,
    gigabytes,
    never_seen_by_mlx_lm,
    seconds_left,
)

FORECAST = Forecast(
    num_rows=105,
    num_valid_rows=19,
    num_tokens=12345,
    num_target_tokens=6789,
    longest_row_tokens=213,
    longest_row="data/train.jsonl:7",
    steps_per_epoch=53,
    total_steps=795,
    total_updates=795,
    start_step=0,
    never_seen=0,
    never_seen_by_mlx_lm=1,
    trainable_parameters=430080,
    total_parameters=10_000_000,
    step_seconds=0.5,
    step_tokens=250,
    peak_memory_bytes=9_500_000_000,
    machine_memory_bytes=16_000_000_000,
    estimated_seconds=420.0,
    memory_estimate=MemoryEstimate(
        weights_bytes=8_100_000_000,
        adapter_bytes=320_000_000,
        activations_bytes=500_000_000,
        logits_bytes=500_000_000,
    ),
    alternatives={"--batch-size 1": 8_900_000_000},
)


def words(what: str, config: TrainConfig | None = None, **changes: Any) -> str:
    changed = msgspec.structs.replace(FORECAST, **changes)
    return dict(describe(changed, config or TrainConfig()))[what]


def rate(learning_rate: float, scale: float, **rest: Any) -> str:
    lora = LoraConfig(scale=scale)
    config = TrainConfig(learning_rate=learning_rate, lora_parameters=lora, **rest)
    return words("rate x scale", config, total_parameters=7_600_000_000)


@pytest.mark.parametrize(
    ("num_rows", "batch_size", "num_steps", "unseen"),
    [(105, 2, 99, 1), (10, 4, 9, 2), (8, 4, 2, 0), (3, 4, 9, 3), (10, 4, 1, 6)],
)
def test_rows_mlx_lm_never_sees_are_counted_as_it_leaves_them_out(
    num_rows: int, batch_size: int, num_steps: int, unseen: int
) -> None:
    from mlx_lm.tuner.trainer import iterate_batches

    rows = [([row, row + 1], 0) for row in range(0, 2 * num_rows, 2)]
    assert never_seen_by_mlx_lm(num_rows, batch_size, num_steps) == unseen
    if num_rows < batch_size:
        with pytest.raises(ValueError, match="at least batch_size"):
            next(iterate_batches(rows, batch_size, 64))
        return
    batches = itertools.islice(iterate_batches(rows, batch_size, 64), num_steps)
    seen = {int(row[0]) for batch, _ in batches for row in batch}
    assert num_rows - len(seen) == unseen


def test_rows_and_tokens_are_reported() -> None:
    assert words("rows") == "105 for training, 19 for validation"
    assert words("never seen") == "0; mlx_lm.lora would never train on 1"
    assert words("never seen", never_seen=7) == "7; mlx_lm.lora would never train on 1"
    assert words("tokens") == (
        "12,345, of which 6,789 are learned; the longest row has 213 (data/train.jsonl:7)"
    )
    assert "refuses fewer rows" in words("never seen", num_rows=3, never_seen_by_mlx_lm=3)


def test_steps_are_reported_with_epochs_updates_and_what_is_done() -> None:
    assert words("steps") == "795 of up to 2 rows = 15.0 epochs"
    assert words("steps", total_updates=200, start_step=53) == (
        "795 of up to 2 rows = 15.0 epochs, 200 updates; 53 steps are done already"
    )


@pytest.mark.parametrize(
    ("learning_rate", "scale", "judgment"),
    [
        (1e-5, 2.0, "= 2e-05: weak"),
        (1e-5, 8.0, "= 8e-05: usual"),
        (1e-5, 20.0, "= 0.0002: usual"),
        (1e-4, 2.0, "= 0.0002: usual"),
        (1e-4, 4.0, "= 0.0004: strong"),
        (3e-5, 16.0, "= 0.00048: very strong; at 4.8e-04 whole training poems came back"),
    ],
)
def test_rate_and_scale_are_judged_together_by_runs_that_are_known(
    learning_rate: float, scale: float, judgment: str
) -> None:
    assert judgment in rate(learning_rate, scale)


@pytest.mark.parametrize(
    ("learning_rate", "judgment"),
    [(1e-5, "weak"), (1e-3, "usual for a base this small"), (2e-3, "strong for a base this small")],
)
def test_a_small_base_is_not_judged_by_runs_of_large_ones(
    learning_rate: float, judgment: str
) -> None:
    config = TrainConfig(learning_rate=learning_rate, lora_parameters=LoraConfig(scale=2.0))
    assert f": {judgment}" in words("rate x scale", config, total_parameters=10_000_000)


def test_the_rate_judged_is_where_the_schedule_begins() -> None:
    planned = ScheduleConfig(name="cosine_decay", arguments=(3e-5,))
    assert rate(1e-2, 16.0, lr_schedule=planned).startswith("3e-05 x 16 = 0.00048")


def test_what_cannot_be_compared_is_not_judged() -> None:
    assert "not comparable" in rate(1e-4, 2.0, optimizer="sgd")
    assert "no scale" in rate(1e-5, 2.0, fine_tune_type="full")
    assert "strong for preferences" in rate(1e-4, 2.0, method="dpo")
    assert "usual for preferences" in rate(5e-6, 2.0, method="dpo")


def test_the_schedule_is_reported_and_whether_it_fits_the_run() -> None:
    assert words("schedule") == "constant rate"
    fits = TrainConfig(lr_schedule=ScheduleConfig(name="cosine_decay", warmup=0.05))
    assert words("schedule", fits) == "cosine decay after a warm-up of 40"
    long = TrainConfig(lr_schedule=ScheduleConfig(name="cosine_decay", arguments=(1e-5, 2000)))
    assert words("schedule", long) == "cosine decay; it ends at update 2000, the run has 795"


def test_bias_correction_is_reported_in_numbers() -> None:
    assert words("optimizer").startswith("adamw with bias correction")
    off = TrainConfig(optimizer="adam", optimizer_config={"adam": {"bias_correction": False}})
    assert "first step is 3.2 times as long as the rate says, the tenth 6.5" in words(
        "optimizer", off
    )
    assert words("optimizer", TrainConfig(optimizer="muon")) == "muon"


def test_memory_is_reported_by_its_parts_and_what_would_help() -> None:
    assert words("memory") == (
        "9.5 GB at the peak, measured on one step with the longest rows; this machine has 16.0 GB "
        "(weights 8.1 GB, adapter and optimizer 0.3 GB, the batch 1.1 GB)"
    )
    tight = words("memory", peak_memory_bytes=12_500_000_000)
    assert tight.endswith("; that is tight, try --batch-size 1: 8.9 GB")


def test_time_is_reported_with_the_measured_speed() -> None:
    assert words("time") == "about 7 min at 500 tokens/s, one step measured"


def test_time_grows_with_steps_tokens_and_validations() -> None:
    measured: dict[str, Any] = {
        "num_evaluations": 11,
        "tokens_per_step": 100.0,
        "step_seconds": 1.0,
        "step_tokens": 200,
    }
    assert seconds_left(steps_left=100, valid_tokens=0, **measured) == pytest.approx(50)
    # 11 validations of 600 tokens, each a third of what training them would take
    assert seconds_left(steps_left=100, valid_tokens=600, **measured) == pytest.approx(61)


def test_sizes_and_times_are_short() -> None:
    assert [gigabytes(n) for n in (4.26e9, 1e8, 5e7)] == ["4.3 GB", "0.1 GB", "50 MB"]
    assert [duration(n) for n in (40, 200, 3900, 7500)] == ["40 s", "3 min", "65 min", "2 h 05 min"]
