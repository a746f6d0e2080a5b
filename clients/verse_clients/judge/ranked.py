"""The file that `verse judge` writes: all poems, also those left out, and all that was compared.

`verse curate` reads it; `judge report` and `judge calibrate` need only the decisions beside it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from verse.atomic_file import replace_file
from verse.records import AnswerFormat, Candidate, RubricScores
from verse.terminal import are, counted
from verse_clients.errors import InputError, OutputError
from verse_clients.screening import Finding, Reason

CRITERIA = tuple(RubricScores.__struct_fields__)
"""Names, in the order of the record."""
HIGHEST = 5.0
LIKELIHOOD = "likelihood"
"""Name of the judge that is no model to be asked: it computes log-probabilities."""

Weight = Annotated[float, msgspec.Meta(ge=0)]


Interval = tuple[float, float, float]
"""A figure, and where it lies with 95 % confidence."""
T = TypeVar("T")
Use = Literal["example", "calibration"]


class Weights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each criterion counts; only their proportions matter."""

    theme_adherence: Weight = 1.0
    poetic_quality: Weight = 1.0
    fluency: Weight = 1.0
    emotional_resonance: Weight = 1.0


MEASURES = ("theme_adherence", "fluency", "voice", "surprise")
"""What `--judge likelihood` measures."""


class StandardScores(msgspec.Struct, frozen=True, kw_only=True):
    """What log-probabilities say of one poem, in standard deviations of the run's poems."""

    theme_adherence: Interval | None
    fluency: Interval | None
    voice: Interval | None
    surprise: Interval | None
    total: float
    """0 to 5: of their mean, by the normal distribution."""


class MeanScores(msgspec.Struct, frozen=True, kw_only=True):
    """The judges' mean for one poem, 0 to 5 each."""

    theme_adherence: float
    poetic_quality: float
    fluency: float
    emotional_resonance: float


def mean_scores(scores: Iterable[RubricScores]) -> MeanScores:
    """The mean of at least one judge's scores."""
    rows = [msgspec.structs.astuple(score) for score in scores]
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return MeanScores(**dict(zip(CRITERIA, means, strict=True)))


def total(scores: RubricScores | MeanScores, weights: Weights) -> float:
    """The weighted mean of the criteria, 0 to 5."""
    factors = msgspec.structs.astuple(weights)
    parts = zip(msgspec.structs.astuple(scores), factors, strict=True)
    return sum(score * factor for score, factor in parts) / sum(factors)


class LearnedWeights(msgspec.Struct, frozen=True, kw_only=True):
    """A file of `verse judge calibrate`."""

    weights: Weights
    trained_on: tuple[str, ...] = ()
    """Ids of the candidates whose decisions were used: they tell nothing about agreement."""
    num_decisions: int = 0
    auc_before: Interval | None = None
    """With equal weights."""
    auc_after: Interval | None = None
    """With the weights that the other folds taught."""
    gain: Interval | None = None


def read_json(path: Path, kind: type[T], says: str) -> T:
    """Read a file.

    Args:
        path: The file.
        kind: What it holds.
        says: What to say of one that holds something else, behind its name.

    Raises:
        InputError: it is missing or something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} {says}: {error}.") from error


def write_json(path: Path, value: msgspec.Struct) -> None:
    """Replace a file.

    Raises:
        OutputError: the disk refuses.
    """
    try:
        replace_file(path, [msgspec.json.format(msgspec.json.encode(value)), b"\n"])
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from error


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
    likelihood: StandardScores | None = None
    """By `--judge likelihood`."""
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
    return read_json(path, Ranked, "is not a ranking from verse judge")


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
            f"{path} ranks {counted(len(others), 'poem')} that {are(len(others))} not in "
            "the input, so it belongs to another run; name another file with -o."
        )
