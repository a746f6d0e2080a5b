"""A report as pictures: agreement, ranks with their intervals, scores against length."""
# matplotlib's stubs leave keyword arguments without types.
# pyright: reportUnknownMemberType=false

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from verse.records import JournalEntry
from verse.replay import Replay
from verse_clients.errors import OutputError
from verse_clients.judge.metrics import blind_verdicts, length_of
from verse_clients.judge.ranked import Ranked, RankedPoem
from verse_clients.judge.report import Report
from verse_clients.plotting import IntervalRow, draw_intervals, write_png

_COLOURS = {True: "#2a7f62", False: "#b4443c", None: "#8a8a8a"}
_WORDS = {True: "taken", False: "rejected", None: "not decided blind"}
_KIND_COLOURS = {"judge": "#2b4c7e", "criterion": "#567ebb", "baseline": "#8a8a8a"}

Taken = dict[str, bool]


def draw(
    ranked: Ranked, entries: Iterable[JournalEntry], report: Report, folder: Path
) -> list[Path]:
    """Write the plots into a folder; those with nothing to show are left out.

    Raises:
        OutputError: the disk refuses.
    """
    taken = blind_verdicts(Replay(entries)).taken
    plots: dict[str, Callable[[Axes], bool]] = {
        "agreement.png": lambda axes: _agreement(axes, report),
        "ranks.png": lambda axes: _ranks(axes, ranked, taken),
        "length.png": lambda axes: _length(axes, ranked, taken),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [path for name, plot in plots.items() if (path := write_png(folder / name, plot))]
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}.") from error


def _agreement(axes: Axes, report: Report) -> bool:
    if not report.scorers:
        return False
    rows = [IntervalRow(s.name, *s.auc, _KIND_COLOURS[s.kind]) for s in report.scorers]
    draw_intervals(axes, rows)
    axes.axvline(0.5, color="black", linestyle=":", linewidth=1)
    axes.set_xlabel("ROC-AUC with the poet's blind decisions; 0.5 is chance")
    return True


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
