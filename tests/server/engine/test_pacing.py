"""What may be done between two steps follows from what was seen, and is never nothing."""

import pytest

from verse_server.engine.pacing import LinearCost, Pacing


def seen(pacing: Pacing, rows: int, step: float, tokens: int = 0, seconds: float = 0.0) -> None:
    """A pass in which prompts were computed beside a step."""
    pacing.begin(rows)
    if tokens:
        pacing.note_prefill(tokens, seconds)
    pacing.end(step + seconds)


def test_a_cost_is_found_from_sizes_that_differ() -> None:
    cost = LinearCost(fixed_units=16)
    for units in (6, 40, 12, 80, 25, 6, 60) * 4:
        cost.note(units, 0.008 + 0.0004 * units)
    assert cost.seconds_of(50) == pytest.approx(0.028, rel=0.02)
    assert cost.units_within(0.028) in (49, 50, 51)
    assert cost.units_within(0.001) == 0


def test_where_all_were_of_one_size_more_of_them_are_tried() -> None:
    cost = LinearCost(fixed_units=16)
    for _ in range(50):
        cost.note(6, 0.009)
    assert cost.seconds_of(6) == pytest.approx(0.009)
    assert 6 < cost.units_within(0.013) < 20


def test_the_latest_counts_most() -> None:
    cost = LinearCost(fixed_units=4)
    for seconds in (0.1, 0.01):
        for _ in range(100):
            cost.note(8, seconds)
    assert cost.seconds_of(8) == pytest.approx(0.01, rel=0.1)


def test_a_pass_computes_less_than_a_step_of_prompts_while_rows_run() -> None:
    pacing = Pacing()
    for tokens in (6, 30, 12, 48) * 10:
        seen(pacing, 3, 0.010, tokens, 0.006 + 0.0004 * tokens)
    pacing.begin(3)
    assert pacing.step_seconds == pytest.approx(0.010, rel=0.05)
    foretold = 0.006 + 0.0004 * pacing.prefill_tokens
    assert 0.006 < foretold < 0.010


def test_where_a_prompts_first_token_is_dear_it_is_not_cut_into_the_smallest_pieces() -> None:
    pacing = Pacing()
    for tokens in (6, 30, 12, 48) * 10:  # as on a large model: more than a step before any token
        seen(pacing, 3, 0.060, tokens, 0.056 + 0.0012 * tokens)
    pacing.begin(3)
    assert pacing.left_seconds < 0.056
    assert 16 <= pacing.prefill_tokens <= 32


def test_more_comes_in_between_two_steps_while_a_crowd_waits() -> None:
    pacing = Pacing()
    for tokens in (6, 30, 12, 48) * 10:
        seen(pacing, 3, 0.010, tokens, 0.002 + 0.0004 * tokens)
    pacing.begin(3)
    usual = pacing.prefill_tokens
    pacing.begin(3, is_crowded=True)
    assert pacing.prefill_tokens > 1.4 * usual


def test_while_all_rows_have_just_begun_those_asked_with_them_come_in_sooner() -> None:
    pacing = Pacing()
    seen(pacing, 4, 0.010, 30, 0.01)
    room: list[int] = []
    for rows in (0, *[4] * 40, 0, 4):
        pacing.begin(rows)
        room.append(pacing.prefill_tokens)
    assert room[1] == room[20] == room[-1] > 1.2 * room[40]


def test_more_rows_make_longer_steps_and_room_for_more() -> None:
    pacing = Pacing()
    for rows in (2, 16, 8, 30) * 10:
        seen(pacing, rows, 0.007 + 0.001 * rows, 6 * rows, 0.006 + 0.0024 * rows)
    room: list[int] = []
    for rows in (2, 30):
        pacing.begin(rows)
        room.append(pacing.prefill_tokens)
    assert room[1] > 2 * room[0]


def test_what_is_spent_on_one_thing_is_lost_to_the_others() -> None:
    pacing = Pacing()
    for _ in range(20):
        seen(pacing, 4, 0.02, 20, 0.01)
    pacing.begin(4)
    before = pacing.prefill_tokens, pacing.loading_seconds
    pacing.spend(0.03)
    assert pacing.prefill_tokens < before[0]
    assert pacing.loading_seconds < before[1]
    pacing.spend(1.0)
    assert pacing.prefill_tokens == 0
    assert pacing.loading_seconds == 0


def test_prompts_go_on_in_every_second_pass_whatever_else_there_is() -> None:
    pacing = Pacing()
    for _ in range(20):
        seen(pacing, 4, 0.02, 20, 0.01)
    tokens: list[int] = []
    for _ in range(6):
        pacing.begin(4, has_prompts=True)
        pacing.spend(1.0)
        tokens.append(pacing.prefill_tokens)
        if tokens[-1]:
            pacing.note_prefill(tokens[-1], 0.01)
        pacing.end(1.03)
    assert tokens == [0, 8] * 3
    pacing.begin(4, is_crowded=True)
    pacing.spend(1.0)
    assert pacing.prefill_tokens == 8


def test_adapters_are_loaded_in_turn_with_prompts_where_any_wait() -> None:
    pacing = Pacing()
    for _ in range(20):
        seen(pacing, 4, 0.02, 20, 0.01)
    may_load: list[bool] = []
    for has_prompts in (True, True, True, True, False, False, False):
        pacing.begin(4, has_prompts=has_prompts)
        may_load.append(pacing.loading_seconds > 0)
        if may_load[-1]:
            pacing.spend(0.01)
        elif pacing.prefill_tokens:
            pacing.note_prefill(8, 0.01)
        pacing.end(0.03)
    assert may_load == [True, False, True, False, True, True, True]


def test_a_pass_without_anything_else_computes_some_of_a_prompt_however_dear() -> None:
    pacing = Pacing()
    for _ in range(20):
        seen(pacing, 4, 0.02, 20, 1.0)
    for _ in range(2):
        pacing.begin(4)
        assert pacing.prefill_tokens == 8
        pacing.end(0.02)


def test_nothing_is_bound_while_nobody_waits() -> None:
    pacing = Pacing()
    pacing.begin(0)
    assert not pacing.is_bound
    assert pacing.admission_seconds == float("inf")
    pacing.begin(1)
    assert pacing.is_bound
    assert 0 < pacing.admission_seconds < 0.1
