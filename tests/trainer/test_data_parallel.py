"""Several ranks train what one process trains."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.parallel_runs import RUNS, STOPPED_AT, take, take_together
from tests.trainer.runs import (
    POEMS,
    build_model,
    chat,
    pairs,
    quick,
    read_weights,
    write_data,
    write_rows,
)
from verse_trainer import events
from verse_trainer.checkpoint import read_metrics
from verse_trainer.data_parallel import share_of


@given(st.lists(st.integers(1, 200), max_size=20), st.integers(1, 6))
def test_every_example_of_a_batch_is_one_ranks_and_the_work_is_even(
    lengths: list[int], num_ranks: int
) -> None:
    shares = [share_of(lengths, num_ranks, rank) for rank in range(num_ranks)]
    assert sorted(index for share in shares for index in share) == list(range(len(lengths)))
    loads = [sum(lengths[index] for index in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths, default=0)


def folder_of_runs(folder: Path) -> Path:
    """A model, rows and pairs; and a run that one process stopped, for others to continue."""
    build_model(folder / "model")
    write_data(folder / "data")
    rows = [chat(theme, poem) for theme, poem in POEMS[-2:]]
    write_rows(folder / "data" / "test.jsonl", rows)
    write_data(folder / "contrary", num_valid=0)
    contrary = [chat("时", "甲乙丙丁戊己庚辛"), chat("辰", "子丑寅卯辰巳午未")]
    write_rows(folder / "contrary" / "valid.jsonl", contrary)
    write_rows(folder / "pairs" / "train.jsonl", pairs(5))
    write_rows(folder / "pairs" / "valid.jsonl", pairs(3))
    return folder


Taken = tuple[Path, Path, dict[str, dict[str, Any]], Sequence[dict[str, dict[str, Any]]]]


Takers = Callable[[int], Taken]


def take_both_ways(root: Path, num_ranks: int, names: Sequence[str]) -> Taken:
    """Runs alone and by ranks; each goes on with a run that the other stopped."""
    alone, together = folder_of_runs(root / "alone"), folder_of_runs(root / "together")
    with quick():
        outcomes = {name: take(alone, name) for name in names if name != "continued"}
        if "continued" in names:
            shutil.copytree(alone / "stopped", together / "continued")
        by_ranks = take_together(together, num_ranks, names)
        if "continued" in names:
            shutil.copytree(together / "stopped", alone / "continued")
            outcomes["continued"] = take(alone, "continued")
    return alone, together, outcomes, by_ranks


SHORT = ("cached layers, a partial last batch", "preferences")
"""What every run of the tests tries: processes that load mlx take most of the time."""


@pytest.fixture(scope="module")
def taken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Takers:
    """By number of ranks: all runs, or those of the tests that were asked for."""
    is_all = any(item.get_closest_marker("network") for item in request.session.items)
    names = tuple(RUNS) if is_all else SHORT
    found: dict[int, Taken] = {}

    def take_once(num_ranks: int) -> Taken:
        if num_ranks not in found:
            folder = tmp_path_factory.mktemp("parallel")
            found[num_ranks] = take_both_ways(folder, num_ranks, names)
        return found[num_ranks]

    return take_once


def run_of(num_ranks: int, name: str) -> Any:
    marks = () if num_ranks == 2 and name in SHORT else pytest.mark.network
    return pytest.param(num_ranks, name, marks=marks)


every_run = pytest.mark.parametrize(
    ("num_ranks", "name"), [run_of(num_ranks, name) for num_ranks in (2, 4) for name in RUNS]
)


@every_run
def test_ranks_train_the_weights_that_one_process_trains(
    taken: Takers, num_ranks: int, name: str
) -> None:
    alone, together, *_ = taken(num_ranks)
    files = sorted(file.name for file in (alone / name).glob("*adapters.safetensors"))
    assert files == sorted(file.name for file in (together / name).glob("*adapters.safetensors"))
    assert files
    for file in files:
        expected, found = read_weights(alone / name / file), read_weights(together / name / file)
        assert expected.keys() == found.keys()
        for tensor, array in expected.items():
            np.testing.assert_allclose(
                np.array(found[tensor]), np.array(array), atol=1e-5, err_msg=f"{file} {tensor}"
            )


@every_run
def test_all_ranks_end_at_the_same_step_for_the_same_reason(
    taken: Takers, num_ranks: int, name: str
) -> None:
    _, _, alone, by_ranks = taken(num_ranks)
    first, *others = [outcomes[name] for outcomes in by_ranks]
    assert all(other == first for other in others)
    expected = alone[name]
    if expected["best_valid_loss"] is not None:
        assert first["best_valid_loss"] == pytest.approx(expected["best_valid_loss"], rel=1e-4)
    assert {**first, "best_valid_loss": 0} == {**expected, "best_valid_loss": 0}
    steps = {"stopped": STOPPED_AT, "stopped early": alone[name]["step"]}
    assert first["step"] == steps.get(name, 50)


@pytest.mark.network
def test_early_stop_came_early(taken: Takers) -> None:
    _, _, alone, _ = taken(2)
    assert alone["stopped early"]["reason"] == "early_stop"
    assert alone["stopped early"]["step"] < 50


@every_run
def test_the_first_rank_reports_the_losses_of_all(taken: Takers, num_ranks: int, name: str) -> None:
    alone, together, *_ = taken(num_ranks)
    kinds = (events.TrainReport, events.Evaluated, events.Tested)
    expected, found = (
        [metric for metric in read_metrics(root / name) if isinstance(metric, kinds)]
        for root in (alone, together)
    )
    assert [(type(m), m.step) for m in found] == [(type(m), m.step) for m in expected]
    for ours, theirs in zip(found, expected, strict=True):
        for key in ("train_loss", "valid_loss", "test_loss", "standard_error", "trained_tokens"):
            assert getattr(ours, key, 0) == pytest.approx(getattr(theirs, key, 0), rel=1e-4)


def test_other_ranks_leave_no_folder_behind(taken: Takers) -> None:
    _, together, alone, _ = taken(2)
    names = {path.name for path in together.iterdir() if path.is_dir()}
    assert names == {"model", "data", "contrary", "pairs", *alone}
    assert not list(together.glob("*/layer_cache"))
