"""How far a run has come, and when it is over."""

import msgspec

from verse_trainer.train_state import TrainState


def after(losses: list[float | None]) -> tuple[TrainState, list[bool]]:
    state, best = TrainState(), []
    for loss in losses:
        state.count(3.0, [], weight=2, tokens=5, examples=1)
        best.append(state.record(loss))
    return state, best


def test_the_lowest_validation_loss_is_the_best() -> None:
    state, best = after([3.0, 2.0, 2.5, 1.9])
    assert best == [True, True, False, True]
    assert (state.best_step, state.best_valid_loss) == (4, 1.9)


def test_an_equal_loss_is_not_better() -> None:
    assert after([2.0, 2.0])[1] == [True, False]


def test_the_run_is_over_after_so_many_evaluations_without_a_better_one() -> None:
    state, _ = after([2.0, 2.1, 2.2])
    assert state.is_over(patience=2)
    assert not state.is_over(patience=3)
    assert not state.is_over(patience=None)


def test_a_better_one_starts_the_count_again() -> None:
    assert not after([2.0, 2.1, 1.9, 2.0])[0].is_over(patience=2)


def test_without_a_valid_set_nothing_is_the_best_and_nothing_ends_it() -> None:
    state, best = after([None, None, None])
    assert best == [False, False, False]
    assert state.best_step is None
    assert not state.is_over(patience=1)


def test_the_history_has_the_mean_training_loss_since_the_last_checkpoint() -> None:
    state = TrainState()
    state.count(6.0, [], weight=2, tokens=1, examples=1)
    state.count(2.0, [], weight=6, tokens=1, examples=1)
    state.record(1.5)
    state.count(5.0, [], weight=5, tokens=1, examples=1)
    state.record(None)
    assert [(e.step, e.train_loss, e.valid_loss) for e in state.history] == [
        (2, 1.0, 1.5),
        (3, 1.0, None),
    ]


def test_it_survives_json() -> None:
    state, _ = after([2.0, 2.1])
    state.count(1.0, [0.5, 2.0], weight=1, tokens=3, examples=1)
    decoded = msgspec.json.decode(msgspec.json.encode(state), type=TrainState)
    assert decoded == state
    assert decoded.since_report.figures == [0.5, 2.0]


def test_what_only_an_end_brings_is_in_the_history_and_counts_for_nothing() -> None:
    state, _ = after([2.0, 2.1])
    state.count(4.0, [], weight=2, tokens=5, examples=1)
    assert state.record(1.0, is_due=False)
    assert (state.best_step, state.evaluations_without_better) == (3, 1)
    state.count(2.0, [], weight=1, tokens=5, examples=1)
    state.record(1.5)
    assert state.history[-1].train_loss == 2.0, "since the second, as if the third were not"
    assert (state.best_step, state.evaluations_without_better) == (3, 0)


def test_where_an_end_changed_the_weights_the_loss_of_the_longer_run_counts() -> None:
    state, _ = after([2.0, 2.1])
    state.count(4.0, [], weight=2, tokens=5, examples=1)
    state.record(1.0, is_flushed=True)
    assert state.evaluations_without_better == 1
    state.ends[3] = 2.2
    assert state.evaluations_without_better == 2
    state.ends[3] = 1.9
    assert state.evaluations_without_better == 0
    assert state.best_valid_loss == 1.0


def test_an_end_takes_the_place_of_the_checkpoint_it_was_stopped_at() -> None:
    state, _ = after([2.0, 2.1])
    state.count(4.0, [], weight=2, tokens=5, examples=1)
    state.record(1.0)
    assert not state.record(2.2, is_flushed=True)
    assert [(e.step, e.train_loss, e.valid_loss) for e in state.history[1:]] == [
        (2, 1.5, 2.1),
        (3, 2.0, 2.2),
    ]
    assert (state.best_step, state.best_valid_loss) == (1, 2.0), "what was better is gone"
    assert state.evaluations_without_better == 0, "but a longer run had it"
