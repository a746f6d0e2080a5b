"""Limits hold whatever is in flight."""

import asyncio

import pytest

from verse.prompt import Message
from verse_clients.judge.costs import (
    Budget,
    BudgetSpentError,
    Price,
    likely_tokens,
    most_tokens,
    price_of,
)


@pytest.mark.anyio
async def test_calls_stop_at_the_limit() -> None:
    budget = Budget(max_calls=2)
    for _ in range(2):
        await budget.reserve(0.0)
    with pytest.raises(BudgetSpentError):
        await budget.reserve(0.0)
    assert (budget.calls, budget.is_spent) == (2, True)


@pytest.mark.anyio
async def test_what_a_call_may_cost_at_most_is_set_aside_before_it_is_sent() -> None:
    budget = Budget(max_cost=1.0)
    await budget.reserve(0.6)
    waiting = asyncio.create_task(budget.reserve(0.6))
    await asyncio.sleep(0)
    assert not waiting.done()  # the first may still turn out cheaper
    budget.settle(0.6, 0.1)
    await waiting
    assert budget.calls == 2
    budget.settle(0.6, 0.6)
    with pytest.raises(BudgetSpentError):
        await budget.reserve(0.6)
    assert budget.cost == pytest.approx(0.7)


@pytest.mark.anyio
async def test_a_call_that_never_left_does_not_count() -> None:
    budget = Budget(max_calls=1)
    await budget.reserve(0.0)
    budget.give_back(0.0)
    await budget.reserve(0.0)
    assert budget.calls == 1


def test_prices_are_known_by_model_and_unknown_ones_are_none() -> None:
    assert price_of("gpt-4.1", "https://api.openai.com/v1") == Price(2.0, 8.0)
    assert price_of("gpt-4.1", "https://proxy.example/v1") == Price(2.0, 8.0)
    assert price_of("nobodys-model", "https://proxy.example/v1") is None
    assert Price(2.0, 8.0).of(1000, 500) == pytest.approx(0.006)


def test_the_most_tokens_are_never_fewer_than_the_likely_ones() -> None:
    for text in ("", "河水流过我的窗前", "The street lamps are lit", "🀄️" * 9):
        messages = [Message("user", text)]
        assert most_tokens(messages) >= likely_tokens(messages)
