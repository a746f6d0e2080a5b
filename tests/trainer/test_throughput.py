"""How fast a run goes."""

import pytest

from verse_trainer.train_state import Throughput


def test_rates_count_from_the_last_report() -> None:
    pace = Throughput()
    pace.step(10.0, 1)
    pace.next_window()
    pace.step(0.5, 100)
    pace.step(1.5, 100)
    assert pace.tokens_per_second == pytest.approx(100)
    assert pace.steps_per_second == pytest.approx(1)


def test_what_is_left_takes_what_it_took_so_far() -> None:
    pace = Throughput()
    pace.step(1.0, 1)
    pace.step(3.0, 1)
    pace.evaluation(5.0)
    assert pace.seconds_left(steps=10, evaluations=2) == pytest.approx(30)


def test_before_the_first_step_nothing_is_known() -> None:
    pace = Throughput()
    assert (pace.tokens_per_second, pace.steps_per_second, pace.seconds_left(9, 9)) == (0, 0, 0)
