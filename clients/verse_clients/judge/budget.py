"""Limits that hold: what a call may cost at most is set aside before it is sent."""

import asyncio


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
