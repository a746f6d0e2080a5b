"""How far a run has come, and when it is over."""

import msgspec

from verse_trainer.train_state import TrainState


def after(losses: list[float | None]) -> tuple[TrainState, list[bool]]:
    standing, best = TrainState(), []
    for loss in losses:
        standing.count(3.0, [], weight=2, tokens=5, examples=1)
        best.append(standing.record(loss))
    return standing, best


def test_the_lowest_validation_loss_is_the_best() -> None:
    standing, best = after([3.0, 2.0, 2.5, 1.9])
    assert best == [True, True, False, True]
    assert (standing.best_step, standing.best_valid_loss) == (4, 1.9)


def test_an_equal_loss_is_not_better() -> None:
    assert after([2.0, 2.0])[1] == [True, False]


def test_the_run_is_over_after_so_many_evaluations_without_a_better_one() -> None:
    standing, _ = after([2.0, 2.1, 2.2])
    assert standing.is_over(patience=2)
    assert not standing.is_over(patience=3)
    assert not standing.is_over(patience=None)


def test_a_better_one_starts_the_count_again() -> None:
    assert not after([2.0, 2.1, 1.9, 2.0])[0].is_over(patience=2)


def test_without_a_valid_set_nothing_is_the_best_and_nothing_ends_it() -> None:
    standing, best = after([None, None, None])
    assert best == [False, False, False]
    assert standing.best_step is None
    assert not standing.is_over(patience=1)


def test_the_history_has_the_mean_training_loss_since_the_last_checkpoint() -> None:
    standing = TrainState()
    standing.count(6.0, [], weight=2, tokens=1, examples=1)
    standing.count(2.0, [], weight=6, tokens=1, examples=1)
    standing.record(1.5)
    standing.count(5.0, [], weight=5, tokens=1, examples=1)
    standing.record(None)
    assert [(e.step, e.train_loss, e.valid_loss) for e in standing.history] == [
        (2, 1.0, 1.5),
        (3, 1.0, None),
    ]


def test_it_survives_json() -> None:
    standing, _ = after([2.0, 2.1])
    standing.count(1.0, [0.5, 2.0], weight=1, tokens=3, examples=1)
    decoded = msgspec.json.decode(msgspec.json.encode(standing), type=TrainState)
    assert decoded == standing
    assert decoded.since_report.figures == [0.5, 2.0]


def test_what_only_an_end_brings_is_in_the_history_and_counts_for_nothing() -> None:
    standing, _ = after([2.0, 2.1])
    standing.count(4.0, [], weight=2, tokens=5, examples=1)
    assert standing.record(1.0, is_due=False)
    assert (standing.best_step, standing.evaluations_without_better) == (3, 1)
    standing.count(2.0, [], weight=1, tokens=5, examples=1)
    standing.record(1.5)
    assert standing.history[-1].train_loss == 2.0, "since the second, as if the third were not"
    assert (standing.best_step, standing.evaluations_without_better) == (3, 0)


def test_where_an_end_changed_the_weights_the_loss_of_the_longer_run_counts() -> None:
    standing, _ = after([2.0, 2.1])
    standing.count(4.0, [], weight=2, tokens=5, examples=1)
    standing.record(1.0, is_flushed=True)
    assert standing.evaluations_without_better == 1
    standing.ends[3] = 2.2
    assert standing.evaluations_without_better == 2
    standing.ends[3] = 1.9
    assert standing.evaluations_without_better == 0
    assert standing.best_valid_loss == 1.0
