"""How fast a run goes."""

import pytest

from verse_trainer.train_state import Throughput


def test_rates_count_from_the_last_report() -> None:
    throughput = Throughput()
    throughput.step(10.0, 1)
    throughput.next_window()
    throughput.step(0.5, 100)
    throughput.step(1.5, 100)
    assert throughput.tokens_per_second == pytest.approx(100)
    assert throughput.steps_per_second == pytest.approx(1)


def test_what_is_left_takes_what_it_took_so_far() -> None:
    throughput = Throughput()
    throughput.step(1.0, 1)
    throughput.step(3.0, 1)
    throughput.evaluation(5.0)
    assert throughput.seconds_left(steps=10, evaluations=2) == pytest.approx(30)


def test_before_the_first_step_nothing_is_known() -> None:
    throughput = Throughput()
    assert (
        throughput.tokens_per_second,
        throughput.steps_per_second,
        throughput.seconds_left(9, 9),
    ) == (0, 0, 0)
