"""What a judge may cost: calls, dollars and questions at once, told before and kept."""

import pytest

from tests.clients.fake_openai import Failure, FakeOpenAI
from tests.clients.judge.conftest import (
    CACHE,
    NUM_POEMS,
    ranked,
    verse_judge,
)


@pytest.mark.parametrize("limit", [1, 7, NUM_POEMS + 3])
def test_calls_stop_hard_at_the_limit_and_go_on_with_a_higher_one(
    fake: FakeOpenAI, limit: int
) -> None:
    assert verse_judge(fake, "-o", "whole.json") == 0
    calls = fake.num_calls
    fake.asked.clear()
    assert verse_judge(fake, "--max-calls", str(limit), "--concurrency", "4") == 0
    assert fake.num_calls == limit
    assert "The limit was reached" in " ".join(ranked().notes)
    assert verse_judge(fake) == 0
    assert fake.num_calls == calls
    assert ranked().notes == ()


def test_retries_count_against_the_limit_too(fake: FakeOpenAI) -> None:
    fake.fail(*[Failure(500)] * 2)
    assert verse_judge(fake, "--max-calls", "4", "--concurrency", "1") == 0
    assert fake.num_calls == 4


def test_cost_stops_before_the_limit(fake: FakeOpenAI) -> None:
    # 7 tokens in, 11 out, as the fake server counts them: a thousandth of a dollar a call.
    price = f"0,{1000 / 11}"
    options = ["--price", price, "--max-tokens", "100", "--concurrency", "4"]
    assert verse_judge(fake, *options, "--max-cost", "0.02") == 0
    spent = fake.num_calls * 0.001
    # The last call is sent only if 100 tokens would still fit.
    assert 0.02 - 0.0091 - 0.001 <= spent <= 0.02
    assert ranked().judges[0].cost == pytest.approx(spent)


def test_a_limit_in_dollars_needs_a_price(capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--judge", "nobodys-model", "--max-cost", "1"]
    assert verse_judge("http://192.0.2.1/v1", *options) == 2
    assert "none is known for nobodys-model" in capfd.readouterr().err


def test_a_dry_run_tells_calls_tokens_and_price_and_asks_nothing(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    assert verse_judge(fake, "--dry-run") == 0
    said = capfd.readouterr().out
    assert "12 poems, 12 of them to be judged." in said
    assert "12 rubric calls, at most 15 comparisons, about " in said
    assert "$0 (a server of your own)" in said
    assert verse_judge("https://api.openai.com/v1", "--judge", "gpt-4.1", "--dry-run") == 0
    assert "about $0.0" in capfd.readouterr().out
    assert verse_judge("https://192.0.2.1/v1", "--judge", "nobodys", "--dry-run") == 0
    assert "price unknown" in capfd.readouterr().out
    assert fake.num_calls == 0
    assert not CACHE.exists()
    assert verse_judge(fake, "--compare", "none") == 0
    capfd.readouterr()
    assert verse_judge(fake, "--dry-run") == 0
    assert "0 rubric calls, at most 15 comparisons" in capfd.readouterr().out


def test_no_more_questions_at_once_than_allowed(fake: FakeOpenAI) -> None:
    fake.script.seconds = 0.05
    assert verse_judge(fake, "--concurrency", "3") == 0
    assert fake.most_at_once == 3
