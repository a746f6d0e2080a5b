"""A run as it goes on, for a person: a table before it, a bar, and a line at each event."""

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from verse.terminal import show_line
from verse_trainer.config import TrainConfig
from verse_trainer.events import (
    Caching,
    Estimated,
    Evaluated,
    Finished,
    Forecast,
    Loading,
    Sampled,
    Saved,
    Started,
    Stepped,
    Tested,
    TrainMessage,
    TrainReport,
)
from verse_trainer.preflight import describe, describe_estimate, duration, gigabytes

_BARS = "▁▂▃▄▅▆▇█"
_PREPARING = {Loading: "loading the base model", Caching: "computing the frozen layers"}


class ProgressView:
    """Shows a run's messages. On a terminal the bar stays below the lines; elsewhere is none."""

    def __init__(self, config: TrainConfig, console: Console) -> None:
        self._config = config
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task: TaskID | None = None
        self._train_loss: float | None = None
        self._valid_losses: list[float] = []

    def __enter__(self) -> "ProgressView":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, message: TrainMessage) -> None:
        """Show one message."""
        match message:
            case Loading() | Caching():
                self._count(_PREPARING[type(message)], round(100 * message.share), 100)
            case Forecast() | Estimated():
                self._show_forecast(message)
            case Started():
                self._count("training", message.start_step, message.steps)
            case Stepped():
                self._move_to(message.step)
            case TrainReport():
                self._show_report(message)
            case Evaluated():
                self._valid_losses.append(message.valid_loss)
                self._line(self._evaluation(message))
            case Finished():
                if len(self._valid_losses) > 1:
                    self._line(f"valid loss over the run: {sparkline(self._valid_losses)}")
                self._line(_summary(message))
            case _:
                if (text := _in_words(message)) is not None:
                    self._line(text)

    def _count(self, what: str, done: int, total: int) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(what, completed=done, total=total, figures="")
        self._bar.reset(self._task, completed=done)  # time left is counted from here

    def _move_to(self, step: int) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=step)

    def _show_forecast(self, forecast: Forecast | Estimated) -> None:
        rows, notes = _foretold(forecast, self._config)
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for what, words in rows:
            table.add_row(what, words)
        self._bar.console.print(table)
        for note in notes:
            self._line(note)

    def _show_report(self, report: TrainReport) -> None:
        self._train_loss = report.train_loss
        figures = (
            f"train loss {_loss(report.train_loss)}, {report.tokens_per_second:,.0f} tokens/s, "
            f"peak {gigabytes(report.peak_memory_bytes)}"
        )
        if self._task is not None:
            self._bar.update(self._task, completed=report.step, figures=figures)
        if not self._console.is_terminal:
            left = duration(report.eta_seconds)
            self._line(f"step {report.step} (epoch {report.epoch:.1f}): {figures}, {left} left")

    def _evaluation(self, evaluated: Evaluated) -> str:
        words = f"step {evaluated.step}: "
        if self._train_loss is not None:
            words += f"train loss {_loss(self._train_loss)}, "
        words += f"valid loss {_loss(evaluated.valid_loss)}{_error(evaluated.standard_error)}"
        if figures := evaluated.preference:
            words += (
                f", margin {figures.margin:.3f}, {figures.accuracy:.0%} of pairs ranked correctly"
            )
        if evaluated.step == 0:
            start = self._config.resume_adapter_file
            return f"{words}, " + ("base model" if start is None else "adapter it starts from")
        return f"{words}, best so far" if evaluated.is_best else words

    def _line(self, text: str) -> None:
        show_line(self._bar.console, text)


def _foretold(
    forecast: Forecast | Estimated, config: TrainConfig
) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """Rows of a table, and sentences below it."""
    if isinstance(forecast, Estimated):
        return describe_estimate(forecast), ()
    return describe(forecast, config), forecast.notes


def _in_words(message: TrainMessage) -> str | None:
    """What is shown in the same words at any time; None for what is not shown."""
    match message:
        case Sampled():
            return _poem(message)
        case Saved():
            return f"step {message.step}: saved {message.path}"
        case Tested():
            error, loss = _error(message.standard_error), _loss(message.test_loss)
            return (
                f"step {message.step}: test loss {loss}{error}, perplexity {message.perplexity:.1f}"
            )
        case _:
            return None


def _poem(sample: Sampled) -> str:
    lines = "\n".join(f"    {line}" for line in sample.text.splitlines())
    if sample.copy_run:
        count = len(sample.copy_run)
        copied = f"{count} characters as in {sample.copy_source}: {sample.copy_run}"
    else:
        copied = "no passage copied"
    return f"step {sample.step}, 《{sample.theme}》 ({copied})\n{lines}"


_REASONS = {
    "finished": "Finished at step {}.",
    "early_stop": "Stopped early at step {}: the valid loss no longer improves.",
    "interrupted": "Interrupted at step {}.",
    "nan": "Stopped at step {}: the loss is NaN.",
}


def _summary(finished: Finished) -> str:
    words = _REASONS[finished.reason].format(finished.step)
    if finished.best_step is not None and finished.best_valid_loss is not None:
        words += f" Best: step {finished.best_step}, valid loss {_loss(finished.best_valid_loss)}"
        if finished.base_valid_loss is not None:
            words += f" (base model: {_loss(finished.base_valid_loss)})"
        words += "."
    return f"{words} The adapter is in {finished.adapter_path}."


def _loss(loss: float) -> str:
    return f"{loss:.4f}"


def _error(standard_error: float | None) -> str:
    return "" if standard_error is None else f" ± {standard_error:.4f}"


def sparkline(values: Sequence[float]) -> str:
    """A bar for each value, the lowest of them the smallest bar."""
    lowest, span = min(values), max(values) - min(values)
    top = len(_BARS) - 1
    return "".join(_BARS[round((value - lowest) / (span or 1.0) * top)] for value in values)
