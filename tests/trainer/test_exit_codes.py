"""What the end of the training process means."""

import signal
from typing import Any

import pytest

from verse_trainer.events import Failed, Finished, Saved, Started
from verse_trainer.supervise import Ending, Seen, exit_status


def finished(reason: Any) -> Finished:
    return Finished(
        step=40,
        reason=reason,
        best_step=20,
        best_valid_loss=2.0,
        base_valid_loss=2.2,
        adapter_path="adapters/mine",
    )


def end(seen: Seen | None = None, exit_code: int = 0, **rest: Any) -> tuple[int, str | None]:
    return exit_status(Ending(exit_code=exit_code, **rest), seen or Seen())


@pytest.mark.parametrize("reason", ["finished", "early_stop"])
def test_a_run_that_ended_by_itself_is_a_success(reason: str) -> None:
    assert end(Seen(finished=finished(reason))) == (0, None)


def test_a_run_that_was_done_when_ctrl_c_came_is_a_success() -> None:
    assert end(Seen(finished=finished("finished")), stopped_by=signal.SIGINT) == (0, None)


def test_a_mistake_is_reported_with_code_2() -> None:
    seen = Seen()
    seen.note(Failed(sentence="There are no poems."))
    assert end(seen, 2) == (2, "There are no poems.")


def test_a_bug_keeps_its_traceback_and_code() -> None:
    assert end(exit_code=1) == (1, None)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_stop_that_saved_tells_how_to_go_on(number: signal.Signals, code: int) -> None:
    assert end(Seen(finished=finished("interrupted")), stopped_by=number) == (
        code,
        "Stopped and saved at step 40; continue with the same command and --resume.",
    )


def test_a_stop_before_the_first_step_has_nothing_to_save() -> None:
    code, sentence = end(stopped_by=signal.SIGINT)
    assert code == 130
    assert sentence == "Stopped before the first step; there was nothing to save."


def test_a_second_ctrl_c_tells_what_is_left() -> None:
    assert end(Seen(saved_step=20), -9, stopped_by=signal.SIGINT, killed=True) == (
        130,
        "Stopped immediately; --resume continues from step 20.",
    )


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (6, "SIGABRT"), (99, "99")])
def test_a_death_tells_what_takes_less_memory(number: int, name: str) -> None:
    seen = Seen()
    seen.note(Saved(step=20, path="x"))
    code, sentence = end(seen, -number)
    assert code == 2
    assert sentence == (
        f"The training process was killed by {name}, most likely because memory ran out: use a "
        "smaller --batch-size, --grad-checkpoint or a 4-bit base model; "
        "--resume continues from step 20."
    )


def test_a_resumed_run_that_dies_can_be_resumed_from_where_it_started() -> None:
    seen = Seen()
    seen.note(Started(steps=100, epochs=2, updates=100, start_step=50))
    assert (end(seen, -9)[1] or "").endswith("from step 50.")
    assert (end(Seen(), -9)[1] or "").endswith("no checkpoint had been saved.")


def test_a_training_process_that_someone_else_stopped_is_no_success() -> None:
    assert end(Seen(finished=finished("interrupted")))[0] == 143
