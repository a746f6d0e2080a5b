"""Poems on the way."""

import mlx.core as mx
import pytest

from tests.trainer.runs import Runs, fresh
from verse.prompt import FormatName, PromptFormat
from verse_trainer.evaluation import PoemSampler


def sampler(runs: Runs, format_: FormatName = "chat", text: str = "") -> PoemSampler:
    return PoemSampler(
        fresh(runs.base), PromptFormat(format=format_), [("poem-1", text)], max_tokens=24, seed=3
    )


@pytest.mark.parametrize("format_", ["chat", "seed-chatml", "seed-generate"])
def test_the_same_checkpoint_writes_the_same_poems(runs: Runs, format_: FormatName) -> None:
    first = list(sampler(runs, format_).write(("河", "灯"), step=4))
    mx.random.uniform(shape=(5,))
    assert list(sampler(runs, format_).write(("河", "灯"), step=4)) == first
    assert first[0].text != first[1].text


def test_what_was_copied_from_a_training_poem_is_shown(runs: Runs) -> None:
    (honest,) = sampler(runs).write(("河",), step=4)
    assert (honest.copy_run, honest.copy_source) == ("", "")
    (copied,) = sampler(runs, text=f"从前。{honest.text}").write(("河",), step=4)
    assert copied.text == honest.text
    assert copied.copy_source == "poem-1"
    assert len(copied.copy_run) >= 8
