"""Learning-rate schedules that are completed from the run."""

import pytest

from verse_trainer.config import (
    ScheduleConfig,
    complete_schedule,
    num_decay_updates,
)


def test_a_decay_without_arguments_falls_over_the_whole_run() -> None:
    planned = complete_schedule(ScheduleConfig(name="cosine_decay", warmup=0.05), 1e-4, 800)
    assert planned.arguments == (1e-4, 760)
    assert planned.warmup == 40
    assert num_decay_updates(planned) == 800


def test_what_is_written_stays() -> None:
    written = ScheduleConfig(name="cosine_decay", arguments=(2e-5, 100, 1e-7), warmup=7)
    assert complete_schedule(written, 1e-4, 800) == written


def test_a_line_goes_to_zero() -> None:
    planned = complete_schedule(ScheduleConfig(name="linear_schedule", arguments=(3e-4,)), 1e-4, 50)
    assert planned.arguments == (3e-4, 0.0, 50)


def test_schedules_without_an_end_have_none() -> None:
    planned = ScheduleConfig(name="exponential_decay", arguments=(1e-4, 0.99))
    assert complete_schedule(planned, 1e-4, 800) == planned
    assert num_decay_updates(planned) is None


@pytest.mark.parametrize("num_updates", [20, 800])
@pytest.mark.parametrize("warmup", [0, 0.05, 0.5])
@pytest.mark.parametrize("name", ["cosine_decay", "linear_schedule"])
def test_mlx_lm_builds_what_was_completed(name: str, warmup: float, num_updates: int) -> None:
    import msgspec
    from mlx_lm.tuner.utils import build_schedule

    planned = complete_schedule(ScheduleConfig(name=name, warmup=warmup), 1e-4, num_updates)
    rate = build_schedule(msgspec.to_builtins(planned))
    rates = [float(rate(update)) for update in range(num_updates + 2)]
    assert max(rates) == pytest.approx(1e-4, rel=1e-5)
    assert rates[-1] == pytest.approx(0, abs=2e-5)
