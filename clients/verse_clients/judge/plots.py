"""A report as pictures: agreement, ranks with their intervals, scores against length.

Drawn without pyplot, which would look for a screen.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from verse.records import JournalEntry
from verse_clients.decisions.journal import Replay
from verse_clients.errors import OutputError
from verse_clients.judge.metrics import blind_verdicts, length_of
from verse_clients.judge.ranked import Ranked, RankedPoem
from verse_clients.judge.report import Report

_COLOURS = {True: "#2a7f62", False: "#b4443c", None: "#8a8a8a"}
_WORDS = {True: "taken", False: "rejected", None: "not decided blind"}
_KIND_COLOURS = {"judge": "#2b4c7e", "criterion": "#567ebb", "baseline": "#8a8a8a"}
_DOTS_PER_INCH = 120

Taken = dict[str, bool]


def draw(
    ranked: Ranked, entries: Iterable[JournalEntry], report: Report, folder: Path
) -> list[Path]:
    """Write the plots into a folder; those with nothing to show are left out.

    Raises:
        OutputError: the disk refuses.
    """
    taken = blind_verdicts(Replay(entries)).taken
    plots: dict[str, Callable[[Any], bool]] = {
        "agreement.png": lambda axes: _agreement(axes, report),
        "ranks.png": lambda axes: _ranks(axes, ranked, taken),
        "length.png": lambda axes: _length(axes, ranked, taken),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [path for name, plot in plots.items() if (path := _write(folder / name, plot))]
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}.") from error


def _write(path: Path, plot: Callable[[Any], bool]) -> Path | None:
    figure = cast(Any, Figure(figsize=(8, 5), layout="constrained"))
    FigureCanvasAgg(figure)
    if not plot(figure.add_subplot()):
        return None
    figure.savefig(path, dpi=_DOTS_PER_INCH)
    return path


def _agreement(axes: Any, report: Report) -> bool:
    for place, scorer in enumerate(report.scorers):
        value, low, high = scorer.auc
        colour = _KIND_COLOURS[scorer.kind]
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
        axes.plot([value], [place], "o", color=colour)
    axes.axvline(0.5, color="black", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(report.scorers)), [scorer.name for scorer in report.scorers])
    axes.invert_yaxis()
    axes.set_xlabel("ROC-AUC with the poet's blind decisions; 0.5 is chance")
    return bool(report.scorers)


def _ranks(axes: Any, ranked: Ranked, taken: Taken) -> bool:
    poems = [poem for poem in ranked.poems if poem.rank is not None]
    for poem in poems:
        colour = _COLOURS[taken.get(poem.candidate.id)]
        if poem.rank_low is not None:
            axes.plot([poem.rank_low, poem.rank_high], [poem.rank] * 2, color=colour, alpha=0.4)
        axes.plot([poem.rank], [poem.rank], ".", color=colour)
    axes.set_xlabel("rank, with where it lies at 95 %")
    axes.set_ylabel("rank")
    axes.invert_yaxis()
    _legend(axes)
    return bool(poems)


def _length(axes: Any, ranked: Ranked, taken: Taken) -> bool:
    poems: list[RankedPoem] = [poem for poem in ranked.poems if poem.score is not None]
    for poem in poems:
        colour = _COLOURS[taken.get(poem.candidate.id)]
        axes.plot([length_of(poem)], [poem.score], ".", color=colour)
    axes.set_xlabel("characters")
    axes.set_ylabel("score")
    _legend(axes)
    return bool(poems)


def _legend(axes: Any) -> None:
    for verdict, colour in _COLOURS.items():
        axes.plot([], [], ".", color=colour, label=_WORDS[verdict])
    axes.legend(loc="best", fontsize="small")
