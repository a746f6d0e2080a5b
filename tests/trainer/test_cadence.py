"""At which steps something happens."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verse_trainer.config import TrainConfig
from verse_trainer.plan import make_cadence


def steps_where(holds: Any, total: int) -> list[int]:
    return [step for step in range(1, total + 1) if holds(step)]


def test_without_a_word_it_is_fifteen_epochs_with_a_checkpoint_each() -> None:
    cadence = make_cadence(TrainConfig(), steps_per_epoch=7)
    assert cadence.total_steps == 105
    assert steps_where(cadence.is_checkpoint, 105) == list(range(7, 106, 7))


@pytest.mark.parametrize(
    ("keys", "total"),
    [({"epochs": 2}, 14), ({"epochs": 0.5}, 4), ({"iters": 9}, 9), ({"iters": 9, "epochs": 2}, 9)],
)
def test_iters_counts_batches_and_wins_over_epochs(keys: dict[str, Any], total: int) -> None:
    assert make_cadence(TrainConfig(**keys), steps_per_epoch=7).total_steps == total


def test_what_is_measured_is_saved_and_what_is_saved_is_measured() -> None:
    config = TrainConfig(iters=20, save_every=6, steps_per_eval=4)
    cadence = make_cadence(config, steps_per_epoch=7)
    assert steps_where(cadence.is_checkpoint, 20) == [4, 6, 8, 12, 16, 18, 20]
    assert cadence.num_checkpoints_after(8) == 4


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40))
def test_checkpoints_to_come_are_counted_as_they_come(
    save_every: int, steps_per_eval: int, total: int
) -> None:
    config = TrainConfig(iters=total, save_every=save_every, steps_per_eval=steps_per_eval)
    cadence = make_cadence(config, steps_per_epoch=7)
    for step in range(total + 1):
        to_come = [s for s in steps_where(cadence.is_checkpoint, total) if s > step]
        assert cadence.num_checkpoints_after(step) == len(to_come)


def test_the_last_step_is_reported_and_saved() -> None:
    cadence = make_cadence(TrainConfig(iters=13), steps_per_epoch=100)
    assert steps_where(cadence.is_report, 13) == [10, 13]
    assert steps_where(cadence.is_checkpoint, 13) == [13]


def test_samples_come_only_when_asked_for() -> None:
    assert not make_cadence(TrainConfig(iters=4), 2).is_sample(4)
    sampling = make_cadence(TrainConfig(iters=4, sample_every=2), 2)
    assert steps_where(sampling.is_sample, 4) == [2, 4]


def test_gradients_left_over_make_an_update_at_the_end_of_an_epoch_and_of_the_run() -> None:
    config = TrainConfig(iters=12, grad_accumulation_steps=3)
    cadence = make_cadence(config, steps_per_epoch=5)
    assert steps_where(cadence.is_update, 12) == [3, 5, 8, 10, 12]
    assert cadence.total_updates == 5


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 5))
def test_every_batch_is_part_of_an_update(per_epoch: int, total: int, accumulation: int) -> None:
    config = TrainConfig(iters=total, grad_accumulation_steps=accumulation)
    cadence = make_cadence(config, per_epoch)
    updates = steps_where(cadence.is_update, total)
    assert updates[-1] == total
    assert len(updates) == cadence.total_updates
    gaps = [b - a for a, b in zip([0, *updates], updates, strict=False)]
    assert all(1 <= gap <= accumulation for gap in gaps)
