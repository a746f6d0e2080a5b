"""Both losses over the steps: `loss.png` where matplotlib is installed, a line for a terminal."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verse.atomic_file import replace_file
from verse_trainer.events import Evaluated, Metric, TrainReport

PLOT_FILE = "loss.png"
_TRAIN, _VALID = "#888888", "#c04020"
_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float]) -> str:
    """A bar for each value, the lowest of them the smallest bar."""
    lowest, span = min(values), max(values) - min(values)
    top = len(_BARS) - 1
    return "".join(_BARS[round((value - lowest) / (span or 1.0) * top)] for value in values)


def draw(folder: Path, metrics: Sequence[Metric], unit: str) -> None:
    """Draw the curves of a run; without matplotlib, which comes with the clients, nothing is drawn.

    Args:
        folder: Where `loss.png` goes.
        metrics: The run's, from its first step.
        unit: Of the losses, for the axis.

    Raises:
        OSError: the disk is full or read-only.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return
    # No pyplot: that keeps figures in a global list and may look for a display.
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes: Any = figure.add_subplot()  # its methods are typed in part only
    reports = [m for m in metrics if isinstance(m, TrainReport)]
    evaluations = [m for m in metrics if isinstance(m, Evaluated)]
    axes.plot(
        [r.step for r in reports], [r.train_loss for r in reports], color=_TRAIN, label="training"
    )
    if evaluations:
        steps, losses = [e.step for e in evaluations], [e.valid_loss for e in evaluations]
        errors = [e.standard_error or 0.0 for e in evaluations]
        axes.plot(steps, losses, color=_VALID, marker="o", markersize=3, label="validation")
        lower = [loss - error for loss, error in zip(losses, errors, strict=True)]
        upper = [loss + error for loss, error in zip(losses, errors, strict=True)]
        axes.fill_between(steps, lower, upper, color=_VALID, alpha=0.12, linewidth=0)
    if best := [e for e in evaluations if e.is_best]:
        last = best[-1]
        label = f"best: step {last.step}, {last.valid_loss:.3f}"
        axes.plot([last.step], [last.valid_loss], "*", color=_VALID, markersize=13, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel(f"loss, nats per {unit}")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    image = io.BytesIO()
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(image)
    replace_file(folder / PLOT_FILE, [image.getvalue()])
