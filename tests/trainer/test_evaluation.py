"""The mean loss of a set, and how far to trust it."""

import math

import pytest

from tests.trainer.runs import Runs, fresh
from verse_trainer.evaluation import evaluate, ratio_mean
from verse_trainer.material import read_material
from verse_trainer.objective import SftObjective, WholeLoss


def test_every_token_counts_the_same_whatever_its_poem() -> None:
    mean, _ = ratio_mean([10.0, 2.0], [10, 1])
    assert mean == pytest.approx(12 / 11)


def test_the_standard_error_of_equal_poems_is_that_of_their_mean() -> None:
    losses = [1.0, 2.0, 3.0, 4.0]
    _, error = ratio_mean(losses, [1] * 4)
    variance = sum((loss - 2.5) ** 2 for loss in losses) / 3
    assert error == pytest.approx(math.sqrt(variance / 4))


def test_poems_of_one_mean_leave_no_error_however_long_they_are() -> None:
    assert ratio_mean([3.0, 30.0, 6.0], [1, 10, 2]) == (3.0, 0.0)


def test_one_poem_has_no_standard_error() -> None:
    assert ratio_mean([3.0], [2]) == (1.5, None)


def test_the_result_does_not_depend_on_the_batches(runs: Runs) -> None:
    prepared = runs.prepare()
    rows = read_material(prepared.config, prepared.base).rows
    model = fresh(runs.base).model
    objective = SftObjective(WholeLoss(model), rows)
    losses = [
        evaluate(model, objective, "train", batch_size=size).loss  # pyright: ignore[reportOptionalMemberAccess]
        for size in (1, 2, 3, 7, 50)
    ]
    assert losses == pytest.approx([losses[0]] * 5, rel=1e-5)


def test_a_limit_takes_the_first_rows_of_the_file(runs: Runs) -> None:
    prepared = runs.prepare()
    model, rows = fresh(runs.base).model, prepared.material.rows["train"]
    objective = SftObjective(WholeLoss(model), {"train": rows, "valid": rows[:2]})
    limited = evaluate(model, objective, "train", batch_size=1, limit=2)
    first_two = evaluate(model, objective, "valid", batch_size=1)
    assert limited == first_two
    assert evaluate(model, objective, "train", batch_size=1, limit=99) == evaluate(
        model, objective, "train", batch_size=1
    )


def test_an_empty_set_is_not_measured(runs: Runs) -> None:
    model = fresh(runs.base).model
    assert evaluate(model, SftObjective(WholeLoss(model), {}), "valid", batch_size=2) is None
