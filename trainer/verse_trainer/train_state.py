"""How far a run has come, the weights apart, and how fast it goes. Pure.

A run that ended may be made longer and must then be the run that never ended there. So what the end
alone brings (a checkpoint, a report) enters the history and resets nothing.
"""

from collections.abc import Sequence

import msgspec


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint, as `adapter_config.json` lists it."""

    step: int
    train_loss: float
    """Mean since the checkpoint before."""
    valid_loss: float | None = None


class Window(msgspec.Struct, kw_only=True):
    """Sums over the steps since the last report or checkpoint."""

    loss: float = 0.0
    weight: int = 0
    tokens: int = 0
    examples: int = 0
    figures: list[float] = []

    @property
    def mean_loss(self) -> float:
        """Per unit of weight."""
        return self.loss / max(1, self.weight)

    @property
    def mean_figures(self) -> list[float]:
        """Per example."""
        return [figure / max(1, self.examples) for figure in self.figures]

    def add(
        self, loss: float, figures: Sequence[float], *, weight: int, tokens: int, examples: int
    ) -> None:
        """Count one step."""
        self.loss += loss
        self.weight += weight
        self.tokens += tokens
        self.examples += examples
        before = self.figures or [0.0] * len(figures)
        self.figures = [a + b for a, b in zip(before, figures, strict=True)]


class TrainState(msgspec.Struct, kw_only=True):
    """Where a run stands after `step` batches."""

    step: int = 0
    trained_tokens: int = 0
    since_report: Window = msgspec.field(default_factory=Window)
    since_checkpoint: Window = msgspec.field(default_factory=Window)
    base_valid_loss: float | None = None
    """Before the first step."""
    best_step: int | None = None
    best_valid_loss: float | None = None
    history: list[HistoryEntry] = []
    ends: dict[int, float | None] = {}
    """Steps at which the run ended before it was made longer, with the validation loss that the
    longer run has there; None if it has none. Their entries in the history do not count towards an
    early stop."""

    def count(
        self, loss: float, figures: Sequence[float], *, weight: int, tokens: int, examples: int
    ) -> None:
        """One more step is done."""
        self.step += 1
        self.trained_tokens += tokens
        for window in (self.since_report, self.since_checkpoint):
            window.add(loss, figures, weight=weight, tokens=tokens, examples=examples)

    def record(
        self, valid_loss: float | None, *, is_due: bool = True, is_flushed: bool = False
    ) -> bool:
        """Enter the checkpoint of the current step, in place of one that is there.

        One is there where the run was stopped after this step and now ends with it.

        Args:
            valid_loss: None without a valid set.
            is_due: A longer run has a checkpoint here too.
            is_flushed: Its weights are not those of a longer run: the end brought an update.

        Returns:
            Whether it is the best so far.
        """
        before = self.history.pop() if self.has_checkpoint else None
        train_loss = self.since_checkpoint.mean_loss if before is None else before.train_loss
        entry = HistoryEntry(step=self.step, train_loss=train_loss, valid_loss=valid_loss)
        self.history.append(entry)
        if is_due:
            self.since_checkpoint = Window()
        if is_flushed or not is_due:
            self.ends[self.step] = None if before is None else before.valid_loss
        losses = [(e.valid_loss, e.step) for e in self.history if e.valid_loss is not None]
        if losses:
            self.best_valid_loss, self.best_step = min(losses)
        return self.best_step == self.step

    @property
    def has_checkpoint(self) -> bool:
        """Whether the current step is in the history."""
        return bool(self.history) and self.history[-1].step == self.step

    @property
    def evaluations_without_better(self) -> int:
        """Those since the best that a run without an end would have made."""
        count, lowest = 0, None
        for entry in self.history:
            loss = self.ends.get(entry.step, entry.valid_loss)
            if loss is None:
                continue
            if lowest is None or loss < lowest:
                count, lowest = 0, loss
            else:
                count += 1
        return count

    def is_over(self, patience: int | None) -> bool:
        """Whether enough evaluations brought nothing better."""
        return patience is not None and self.evaluations_without_better >= patience


class Throughput:
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
