"""A run as a person sees it."""

import io

import pytest

from tests.trainer.test_preflight import FORECAST
from verse.terminal import console
from verse_trainer import events
from verse_trainer.config import TrainConfig
from verse_trainer.events import (
    Evaluated,
    Finished,
    Loading,
    Sampled,
    Saved,
    Started,
    Stepped,
    TrainMessage,
    TrainReport,
)
from verse_trainer.progress import ProgressView, sparkline

REPORT = TrainReport(
    step=10,
    epoch=0.19,
    train_loss=2.5,
    learning_rate=1e-4,
    tokens_per_second=1234.5,
    iterations_per_second=2.0,
    trained_tokens=2500,
    peak_memory_bytes=2_000_000_000,
    eta_seconds=125,
)
FINISHED = Finished(
    step=90,
    reason="early_stop",
    best_step=60,
    best_valid_loss=2.0,
    base_valid_loss=2.25,
    adapter_path="adapters/[mine]",
)


def evaluated(step: int, is_best: bool = True) -> Evaluated:
    return Evaluated(step=step, valid_loss=2.25, standard_error=0.05, seconds=1, is_best=is_best)


def shown(
    *messages: TrainMessage, terminal: bool = False, config: TrainConfig | None = None
) -> str:
    stream = io.StringIO()
    out = console(file=stream, force_terminal=terminal, width=200, color_system=None)
    with ProgressView(config or TrainConfig(), out) as view:
        for message in messages:
            view(message)
    return stream.getvalue()


def test_the_forecast_is_a_table_of_words() -> None:
    text = shown(FORECAST)
    assert "rate x scale  0.0001 x 2 = 0.0002: usual" in text
    assert "never seen    0; mlx_lm.lora" in text


def test_losses_speed_memory_and_time_left_are_shown_where_there_is_no_bar() -> None:
    text = shown(Started(steps=100, epochs=1, updates=100, start_step=0), REPORT)
    assert text == (
        "step 10 (epoch 0.2): train loss 2.5000, 1,234 tokens/s, peak 2.0 GB, 2 min left\n"
    )


def test_a_terminal_has_a_bar_that_counts_steps_from_where_the_run_goes_on() -> None:
    started = Started(steps=100, epochs=1, updates=100, start_step=40)
    step = Stepped(step=41, loss=2.0, tokens=99)
    text = shown(Loading(share=0.5), started, step, REPORT, terminal=True)
    assert "loading the base model" in text
    assert "41/100" in text or "10/100" in text
    assert "train loss 2.5000, 1,234 tokens/s, peak 2.0 GB" in text
    assert "left" not in text


def test_validations_stand_beside_the_training_loss() -> None:
    text = shown(evaluated(0), REPORT, evaluated(10), evaluated(20, is_best=False))
    lines = text.splitlines()
    assert lines[0] == "step 0: valid loss 2.2500 ± 0.0500, base model"
    assert lines[2] == "step 10: train loss 2.5000, valid loss 2.2500 ± 0.0500, best so far"
    assert lines[3] == "step 20: train loss 2.5000, valid loss 2.2500 ± 0.0500"


def test_poems_are_shown_as_they_are_with_what_they_copy() -> None:
    text = shown(
        Sampled(step=10, theme="河", text="河水[bold]\n第二行"),
        Sampled(step=10, theme="灯", text="灯", copy_run="一盏旧灯还亮着呢", copy_source="a1b2"),
    )
    assert "step 10, 《河》 (no passage copied)\n    河水[bold]\n    第二行\n" in text
    assert "《灯》 (8 characters as in a1b2: 一盏旧灯还亮着呢)" in text


def test_checkpoints_tests_and_the_end_are_reported() -> None:
    text = shown(
        Saved(step=60, path="adapters/[mine]/0000060_adapters.safetensors"),
        events.Tested(step=60, test_loss=2.0, standard_error=None, perplexity=7.39),
        FINISHED,
    )
    assert text == (
        "step 60: saved adapters/[mine]/0000060_adapters.safetensors\n"
        "step 60: test loss 2.0000, perplexity 7.4\n"
        "Stopped early at step 90: the valid loss no longer improves. "
        "Best: step 60, valid loss 2.0000 (base model: 2.2500). "
        "The adapter is in adapters/[mine].\n"
    )


def test_the_end_shows_how_the_valid_loss_went() -> None:
    losses = [2.5, 2.25, 2.0, 2.125]
    steps = [
        Evaluated(step=10 * n, valid_loss=loss, standard_error=None, seconds=1, is_best=True)
        for n, loss in enumerate(losses)
    ]
    assert "valid loss over the run: █▅▁▃\n" in shown(*steps, FINISHED)
    assert "over the run" not in shown(steps[0], FINISHED)


def test_a_run_that_starts_from_an_adapter_measures_that_first() -> None:
    config = TrainConfig(resume_adapter_file="adapters/mine/adapters.safetensors")
    assert shown(evaluated(0), config=config).endswith(", adapter it starts from\n")


@pytest.mark.parametrize(
    ("values", "line"), [([3.0, 1.0], "█▁"), ([2.0, 2.0], "▁▁"), ([1.0, 1.5, 2.0], "▁▅█")]
)
def test_a_line_of_bars_shows_a_curve(values: list[float], line: str) -> None:
    assert sparkline(values) == line
