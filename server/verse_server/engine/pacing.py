"""How much may be done between two steps of the rows that are being written.

A row that joins has a prompt to be computed, an adapter comes in from the disk, a prompt is scored:
each of them keeps the running rows waiting. So it is done in pieces, and all pieces between two
steps together may take what about one step takes. What a piece will take is foretold from what
others took, so the bound is the same on any machine and for any model. Pure: no mlx, no clock.
"""

import math

_SHARE = 0.75
"""Of a step: how long the running rows are kept waiting between two."""
_CROWDED_SHARE = 1.25
"""The same while more wait than fill the batch: otherwise it would fill up slowly, for all."""
_FIRST_SHARE = 1.75
"""The same while all of them have just begun: who is asked together with them comes in soon."""
_FIRST_PASSES = 24
_LOADING_SHARE = 0.5
"""Of a step: how much of that may be spent on adapters from the disk."""
_IDLE_LOADING_SECONDS = 0.02
"""The same while nothing runs, from one look for messages to the next."""
_ADMISSION_SHARE = 0.25
"""Of a step."""
_LEAST_TOKENS = 8
"""Something is computed in every second pass, or those who wait would never come in."""
_MOST_ANYHOW = 32
"""Tokens at most that are computed whatever they take, while all but the first are cheap."""
_DECAY = 0.95
_FIRST_SECONDS = 0.02
"""What a step is taken to last before one was seen."""


class LinearCost:
    """Seconds as a fixed part and one for each unit, fitted to what was seen, the latest most.

    Where all that was seen is of one size, the fixed part is taken to be worth so many units.
    """

    def __init__(self, fixed_units: float) -> None:
        self._fixed_units = fixed_units
        self._weight = self._units = self._seconds = 0.0
        self._squares = self._products = 0.0
        self._largest = 0.0

    @property
    def is_known(self) -> bool:
        """Whether anything was seen."""
        return self._weight > 0

    def note(self, units: int, seconds: float) -> None:
        """Something of so many units took so long."""
        for name, seen in (
            ("_weight", 1.0),
            ("_units", float(units)),
            ("_seconds", seconds),
            ("_squares", float(units * units)),
            ("_products", units * seconds),
        ):
            setattr(self, name, _DECAY * getattr(self, name) + seen)
        self._largest = max(float(units), _DECAY * self._largest)

    def seconds_of(self, units: float) -> float:
        """What so many will take."""
        fixed, each = self._parts()
        return fixed + each * units

    def units_within(self, seconds: float) -> int:
        """How many take no longer than that; 0 if one does already.

        No more than twice as many as were seen: a line through few points is no good far from them.
        """
        fixed, each = self._parts()
        return max(0, math.floor(min((seconds - fixed) / each, 2 * self._largest)))

    @property
    def free_units(self) -> float:
        """How many take half as long together as the fixed part."""
        fixed, each = self._parts()
        return fixed / (2 * each)

    def _parts(self) -> tuple[float, float]:
        """Least squares, drawn towards the assumption the more the less sizes differ."""
        units, seconds = self._units / self._weight, self._seconds / self._weight
        variance = self._squares / self._weight - units * units
        covariance = self._products / self._weight - units * seconds
        assumed, trust = seconds / (units + self._fixed_units), (self._fixed_units / 4) ** 2
        each = (covariance + trust * assumed) / (variance + trust)
        each = min(max(each, assumed / 8), seconds / max(units, 1.0))
        return seconds - each * units, max(each, 1e-9)


class Pacing:
    """Bounds each pass of the engine's thread while rows are being written."""

    def __init__(self) -> None:
        self._steps = LinearCost(fixed_units=4)
        self._prefill = LinearCost(fixed_units=16)
        self._num_rows = 0
        self._is_crowded = False
        self._num_passes = 0
        """Since there was no row."""
        self._spent = 0.0
        self._has_prompts = self._has_prefilled = False
        self.is_owed = False
        """Whether this pass is for prompts: the time of the one before has gone into all else."""

    @property
    def is_bound(self) -> bool:
        """Whether rows wait for this pass to end."""
        return self._num_rows > 0

    @property
    def step_seconds(self) -> float:
        """What a step of the rows that run now takes."""
        known = self._steps.is_known
        return self._steps.seconds_of(self._num_rows) if known else _FIRST_SECONDS

    @property
    def loading_seconds(self) -> float:
        """What may go into loading; 0 is for this pass."""
        if not self.is_bound:
            return _IDLE_LOADING_SECONDS
        return 0.0 if self.is_owed else min(_LOADING_SHARE * self.step_seconds, self.left_seconds)

    @property
    def admission_seconds(self) -> float:
        """What may go into letting requests in, while the step before is computed."""
        return _ADMISSION_SHARE * self.step_seconds if self.is_bound else math.inf

    @property
    def prefill_tokens(self) -> int:
        """Tokens of prompts, padding included, that may be computed yet; 0 is for this pass."""
        if self._spent and not self.is_owed and not self._is_crowded:
            return 0
        left = self.left_seconds
        if not self._prefill.is_known or not left:
            return _LEAST_TOKENS
        # The weights of a large model are read for one token as for many: cut into the smallest
        # pieces, a prompt would keep the rows waiting for longer, and itself the longest.
        anyhow = min(_MOST_ANYHOW, math.floor(self._prefill.free_units))
        return max(_LEAST_TOKENS, anyhow, self._prefill.units_within(left))

    def begin(self, num_rows: int, *, is_crowded: bool = False, has_prompts: bool = False) -> None:
        """A pass begins.

        Args:
            num_rows: They wait for it.
            is_crowded: Whether more wait to come in than would fill the batch.
            has_prompts: Whether any are yet to be computed.
        """
        self._num_rows, self._spent, self._is_crowded = num_rows, 0.0, is_crowded
        self._has_prompts, self._has_prefilled = has_prompts, False
        self._num_passes = self._num_passes + 1 if num_rows else 0

    def spend(self, seconds: float) -> None:
        """Anything has taken so long."""
        self._spent += seconds

    def note_prefill(self, tokens: int, seconds: float) -> None:
        """So many tokens of prompts were computed."""
        self._prefill.note(tokens, seconds)
        self.note_joined(seconds)

    def note_joined(self, seconds: float) -> None:
        """Rows have come in of whose prompts there was nothing to be computed."""
        self._has_prefilled = True
        self.spend(seconds)

    def end(self, seconds: float) -> None:
        """The pass has taken so long, all in all."""
        has_waited = self._has_prompts and self._spent > 0 and not self._has_prefilled
        self.is_owed = self.is_bound and has_waited
        if self._num_rows:
            self._steps.note(self._num_rows, max(0.0, seconds - self._spent))

    @property
    def left_seconds(self) -> float:
        """What may yet go into anything but the step."""
        share = _CROWDED_SHARE if self._is_crowded else _SHARE
        share = _FIRST_SHARE if self._num_passes <= _FIRST_PASSES else share
        return max(0.0, share * self.step_seconds - self._spent)
