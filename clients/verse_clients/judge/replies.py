"""The form of an answer, and reading it: strictly, or else as far as the judge's words are clear.

What is not clear is no answer. If a reply holds two different verdicts, neither is taken: one of
them may be quoted from the poem.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, TypeVar

import msgspec

from verse.records import CriterionScore, RubricScores
from verse.thinking import split_thought
from verse_clients.judge.criteria import CRITERIA
from verse_clients.judge.prompt_files import Kind
from verse_clients.judge.questions import Question

T = TypeVar("T")


class RubricReply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An answer about one poem. The reasoning stands first, so that the scores follow from it."""

    reasoning: str
    theme_adherence: CriterionScore
    poetic_quality: CriterionScore
    fluency: CriterionScore
    emotional_resonance: CriterionScore


class RankingReply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An answer about several poems: their letters from best to worst."""

    reasoning: str
    ranking: list[str]


class _Order(msgspec.Struct, frozen=True):
    ranking: list[str]


_REPLIES: dict[Kind, type[msgspec.Struct]] = {"rubric": RubricReply, "ranking": RankingReply}

_NAMES = {
    "theme_adherence": r"theme[_ ]adherence|切题|主题契合",
    "poetic_quality": r"poetic[_ ]quality|诗意(?:与创造)?",
    "fluency": r"fluency|流畅(?:连贯)?",
    "emotional_resonance": r"emotional[_ ]resonance|情感共鸣",
}
_SCORE = r"[^\d\n]{0,12}?(?<!-)([0-5])(?!\d|\.\d)"
_SCORES = {
    name: re.compile(rf"(?:{pattern}){_SCORE}", re.IGNORECASE) for name, pattern in _NAMES.items()
}
_QUOTES = r"[*_`\"'「」『』\[\]]*"
_ABOVE = rf"{_QUOTES}\s*(?:[>＞≻→]|->)\s*{_QUOTES}"
_COMMA = rf"{_QUOTES}\s*[,，、]\s*{_QUOTES}"
_ANNOUNCED = rf"(?i:ranking|order|排名|排序|顺序)[是为is\s]*[:：]?\s*{_QUOTES}"
"""Letters with commas are an order only behind such a word: the question has them in a row too."""
_LISTED = re.compile(r"^\s*\d+\s*[.、)．:：]\s*[*_`\"'「『【\[]*([A-Z])\b", re.MULTILINE)


@cache
def schema_of(kind: Kind) -> dict[str, Any]:
    """The answer's JSON schema as strict servers want it: an object at the root, all required."""
    reply = _REPLIES[kind]
    schema = msgspec.json.schema(reply)
    root = schema["$defs"][reply.__name__]
    return {key: value for key, value in root.items() if key not in ("title", "description")}


def read_scores(reply: str) -> RubricScores | None:
    """The scores in an answer about one poem; None if it has none, or no clear ones."""
    text = split_thought(reply).answer
    return _only(_decoded(text, RubricScores)) or _scores_in_prose(text)


def read_ranking(reply: str, question: Question) -> tuple[str, ...] | None:
    """Ids of the poems from best to worst; None if the answer does not clearly order all."""
    text = split_thought(reply).answer
    found = (_labels(order.ranking, question.labels) for order in _decoded(text, _Order))
    labels = _only(order for order in found if order) or _order_in_prose(text, question.labels)
    if labels is None:
        return None
    ids = dict(zip(question.labels, question.candidates, strict=True))
    return tuple(ids[label] for label in labels)


def _decoded(text: str, kind: type[T]) -> list[T]:
    """The whole answer as JSON; failing that, each JSON object in it that fits."""
    whole = _fitting(text.strip(), kind)
    if whole is not None:
        return [whole]
    found = (_fitting(part, kind) for part in _objects(text))
    return [value for value in found if value is not None]


def _fitting(text: str, kind: type[T]) -> T | None:
    try:
        # Some judges write their numbers as strings.
        return msgspec.json.decode(text, type=kind, strict=False)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None


def _objects(text: str) -> Iterator[str]:
    """Every run from a brace to the one that closes it; braces inside strings may mislead it."""
    opened: list[int] = []
    for place, char in enumerate(text):
        if char == "{":
            opened.append(place)
        elif char == "}" and opened:
            yield text[opened.pop() : place + 1]


def _only(found: Iterable[T]) -> T | None:
    """What all agree on."""
    values = list(found)
    return values[0] if values and all(value == values[0] for value in values) else None


def _scores_in_prose(text: str) -> RubricScores | None:
    scores = {name: _only(_SCORES[name].findall(text)) for name in CRITERIA}
    if None in scores.values():
        return None
    return msgspec.convert(scores, RubricScores, strict=False)


def _order_in_prose(text: str, labels: tuple[str, ...]) -> tuple[str, ...] | None:
    one, more = f"([{''.join(labels)}])", range(len(labels) - 1)
    above = one + "".join(_ABOVE + one for _ in more)
    comma = _ANNOUNCED + one + "".join(_COMMA + one for _ in more)
    runs: list[tuple[str, ...]] = [
        run
        for pattern in (rf"(?<![A-Za-z]){above}(?![A-Za-z])", rf"{comma}(?![A-Za-z])")
        for run in re.findall(pattern, text)
    ]
    orders = [order for run in runs if (order := _labels(run, labels))]
    return _only(orders) or _labels(_LISTED.findall(text), labels)


def _labels(ranking: Iterable[str], labels: tuple[str, ...]) -> tuple[str, ...] | None:
    """The order in the letters of the question: each of them once, or None."""
    letters = [re.findall(r"(?<![A-Za-z])[A-Z](?![A-Za-z])", entry.upper()) for entry in ranking]
    order = tuple(found[0] for found in letters if len(found) == 1)
    return order if len(order) == len(letters) and sorted(order) == sorted(labels) else None
