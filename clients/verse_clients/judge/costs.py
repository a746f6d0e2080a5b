"""What calls cost, and limits that hold: the most a call may cost is set aside before it is sent.

Prices are from genai-prices' offline table, tokens are estimated by counting characters.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from verse.prompt import Message
from verse.records import Judgment
from verse_clients.progress import RunProgress, duration

_MILLION = 1_000_000
_CHINESE = re.compile(r"[\u2e80-\uffef]")
_OTHERS_PER_TOKEN = 4.0
_FRAME_TOKENS = 4
"""Around each message."""


class Price(NamedTuple):
    """Dollars for a million tokens."""

    input: float
    output: float

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Dollars for one call."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / _MILLION


FREE = Price(0.0, 0.0)


def price_of(model: str, base_url: str) -> Price | None:
    """What a model costs at a server; None if nobody knows."""
    # Takes a quarter of a second and is not needed for a server of one's own.
    from genai_prices import Usage, calc_price

    usage = Usage(input_tokens=1000, output_tokens=1000)
    for address in (base_url, None):
        try:
            price = calc_price(usage, model, provider_api_url=address)
        except LookupError:
            continue
        return Price(1000 * float(price.input_price), 1000 * float(price.output_price))
    return None


def likely_tokens(messages: Sequence[Message]) -> float:
    """About what a tokenizer makes of messages: one a Chinese character, one for four others."""
    total = 0.0
    for message in messages:
        chinese = len(_CHINESE.findall(message.content))
        total += chinese + (len(message.content) - chinese) / _OTHERS_PER_TOKEN + _FRAME_TOKENS
    return total


def most_tokens(messages: Sequence[Message]) -> int:
    """What no tokenizer can exceed: one a byte."""
    return sum(len(m.content.encode()) + 4 * _FRAME_TOKENS for m in messages)


class BudgetSpentError(Exception):
    """The next call could exceed a limit. No user's mistake: the run ends with what it has."""


class Budget:
    """Counts calls and dollars; every attempt counts, also one that fails."""

    def __init__(self, max_calls: int | None = None, max_cost: float | None = None) -> None:
        """Set the limits; None is none."""
        self._max_calls = max_calls
        self._max_cost = max_cost
        self._set_aside = 0.0
        self._in_flight = 0
        self._settled = asyncio.Event()
        self.calls = 0
        """Attempts so far."""
        self.cost = 0.0
        """Dollars so far."""
        self.is_spent = False

    async def reserve(self, most: float) -> None:
        """Set aside what a call costs at most, in dollars; waits for what others may give back.

        Raises:
            BudgetSpentError: a limit does not allow it.
        """
        while not self._fits(most):
            if not self._in_flight or self._is_full():
                self.is_spent = True
                raise BudgetSpentError
            self._settled.clear()
            await self._settled.wait()
        self.calls += 1
        self._in_flight += 1
        self._set_aside += most

    def settle(self, most: float, actual: float) -> None:
        """A call that was reserved for ended; `actual` is what it cost."""
        self._in_flight -= 1
        self._set_aside -= most
        self.cost += actual
        self._settled.set()

    def give_back(self, most: float) -> None:
        """A call that was reserved for never reached a server."""
        self.calls -= 1
        self.settle(most, 0.0)

    def _is_full(self) -> bool:
        return self._max_calls is not None and self.calls >= self._max_calls

    def _fits(self, most: float) -> bool:
        total = self.cost + self._set_aside + most
        return not self._is_full() and (self._max_cost is None or total <= self._max_cost)


class AnswerTally(msgspec.Struct, kw_only=True):
    """Counts the answers of one run."""

    budget: Budget
    now: Callable[[], float]
    """A clock, in seconds."""
    begun: float
    total: int = 0
    """Answers that are to come, those that came among them."""
    done: int = 0
    tokens: int = 0
    troubles: int = 0
    """Answers that could not be used."""

    def expect(self, number: int) -> None:
        """So many more answers will come."""
        self.total += number

    def count(self, judgment: Judgment) -> None:
        """Count a new answer."""
        self.done += 1
        self.tokens += judgment.prompt_tokens + judgment.completion_tokens
        self.troubles += judgment.outcome != "judged"

    def progress(self) -> RunProgress:
        """For the live line."""
        seconds = self.now() - self.begun
        parts = [
            f"{self.tokens / max(seconds, 0.001):.0f} tokens/s",
            f"${self.budget.cost:.4f}" if self.budget.cost else "",
            f"{self.troubles} not usable" if self.troubles else "",
            f"{duration(seconds * (self.total / self.done - 1))} left" if self.done else "",
        ]
        return RunProgress(self.done, self.total, ", ".join(part for part in parts if part))
