"""The file that `verse judge` writes: all poems, also those left out, and all that was compared.

`verse curate` reads it; `judge report` and `judge calibrate` need only the decisions beside it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from verse.records import AnswerFormat, Candidate, RubricScores
from verse_clients.errors import InputError, OutputError
from verse_clients.judge.criteria import MeanScores, Weights
from verse_clients.judge.json_file import read_json
from verse_clients.screening import Finding, Reason

Use = Literal["example", "calibration"]


class Exclusion(msgspec.Struct, frozen=True, kw_only=True):
    """Why a poem was left out before a judge was asked."""

    reason: Reason
    detail: str = ""
    """The line, the run, or the other poem it is about."""


def exclusion(finding: Finding | None) -> Exclusion | None:
    """A finding as the file has it."""
    if finding is None:
        return None
    return Exclusion(reason=finding.reason, detail=f"{finding.other} {finding.run}".strip())


class RankedPoem(msgspec.Struct, frozen=True, kw_only=True):
    """One poem and what the judges said; null where they said nothing."""

    candidate: Candidate
    score: float | None = None
    """0 to 5, falling with the rank: a compared poem has the total of the place it won."""
    rank: int | None = None
    """1 is the best."""
    rank_low: int | None = None
    rank_high: int | None = None
    """Where the rank lies with 95 % confidence; null unless it was compared."""
    disagreement: float | None = None
    """Standard deviation of the judges' totals; null for fewer than two judges."""
    total: float | None = None
    """The judges' mean weighted total of the rubric."""
    rubric: MeanScores | None = None
    by_judge: dict[str, RubricScores] = {}
    strength: float | None = None
    """Logits, from comparisons."""
    num_comparisons: int = 0
    filtered: Exclusion | None = None
    seen: Use | None = None
    """What else it was used for: then the judges' word about it proves nothing."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One order by one judge."""

    judge: str
    shown: tuple[str, ...]
    """Ids as the judge saw them."""
    ranking: tuple[str, ...]
    """From best to worst."""


class JudgeSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One judge, and what became of the questions it was asked."""

    name: str
    model: str
    server: str
    format: AnswerFormat | None = None
    outcomes: dict[str, int] = {}
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    """Dollars for all answers, whenever they were given; null if the price is not known."""


class Ranked(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file."""

    prompts: tuple[str, ...] = ()
    """Names and versions of the instructions."""
    weights: Weights = Weights()
    judges: tuple[JudgeSummary, ...]
    filtered: dict[str, int] = {}
    """How many poems were left out, by reason."""
    notes: tuple[str, ...] = ()
    """What a reader should know about this ranking."""
    comparisons: tuple[Comparison, ...] = ()
    poems: tuple[RankedPoem, ...]


def read_ranked(path: Path) -> Ranked:
    """Read a file of `verse judge`.

    Raises:
        InputError: it is missing or something else.
    """
    return read_json(path, Ranked, "is no ranking of verse judge")


def check_output(path: Path, ids: Iterable[str]) -> None:
    """Refuse to replace what this run would not make again.

    Raises:
        OutputError: the file is no ranking, or ranks poems that are not among these.
    """
    if not path.exists():
        return
    try:
        ranked = read_ranked(path)
    except InputError as error:
        raise OutputError(f"{error} Name another file with -o.") from error
    others = {poem.candidate.id for poem in ranked.poems} - set(ids)
    if others:
        raise OutputError(
            f"{path} ranks {len(others)} poems that are not in the input: it is another run's; "
            "name another file with -o."
        )
