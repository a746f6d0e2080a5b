"""How fast a run goes."""

import subprocess
import sys

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


_FAULTS = """
import resource, sys
import numpy as np
from verse_trainer.frozen_layers import keep_freed_memory

def faults():
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(4_000_000, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun

before = faults()
assert keep_freed_memory()
faults()
print(before, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it keeps what is freed anyway")
def test_the_arrays_of_a_step_take_the_memory_of_those_before() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split())
    assert after < before / 10
