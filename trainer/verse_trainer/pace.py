"""How fast a run goes, and when it will be over. Pure; seconds come from outside."""


class Pace:
    """Seconds of the steps and evaluations of this process."""

    def __init__(self) -> None:
        self._seconds = self._window_seconds = 0.0
        self._steps = self._window_steps = self._window_tokens = 0
        self._evaluation_seconds = 0.0

    def step(self, seconds: float, tokens: int) -> None:
        """One step was taken."""
        self._seconds += seconds
        self._steps += 1
        self._window_seconds += seconds
        self._window_steps += 1
        self._window_tokens += tokens

    def evaluation(self, seconds: float) -> None:
        """The valid set was measured."""
        self._evaluation_seconds = seconds

    def next_window(self) -> None:
        """A report was made; rates count from here."""
        self._window_seconds, self._window_steps, self._window_tokens = 0.0, 0, 0

    @property
    def tokens_per_second(self) -> float:
        """Since the last report."""
        return self._window_tokens / self._window_seconds if self._window_seconds else 0.0

    @property
    def steps_per_second(self) -> float:
        """Since the last report."""
        return self._window_steps / self._window_seconds if self._window_seconds else 0.0

    def seconds_left(self, steps: int, evaluations: int) -> float:
        """If steps and evaluations go on taking what they took."""
        per_step = self._seconds / self._steps if self._steps else 0.0
        return steps * per_step + evaluations * self._evaluation_seconds
