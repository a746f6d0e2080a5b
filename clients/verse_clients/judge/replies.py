"""The form of an answer, and reading it: what is not clear is no answer.

An answer is JSON or prose, never both. One that holds a JSON object is read by its fields alone: an
object that breaks off, or whose scores are no whole numbers from 0 to 5, is not searched for
numbers that would fit. Several objects, or words beside them, must say the same. What a judge
quotes from the poem it was shown does not count.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple, cast

import msgspec

from verse.records import CriterionScore, RubricScores
from verse.thinking import holds_tag, split_thought
from verse_clients.judge import prose
from verse_clients.judge.prompts import Kind, Question
from verse_clients.judge.ranked import CRITERIA

Object = dict[str, Any]


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


class _Contradiction:
    """Stands for a field that an object has twice, with two values."""


class _Parts(NamedTuple):
    """An answer, taken apart."""

    values: list[Any]
    """Its JSON objects."""
    outside: str
    """All words beside them."""
    after: str
    """Of these, the ones behind the last object; all if there is none."""
    is_broken: bool
    """Whether an object in it cannot be read to its end."""


_REPLIES: dict[Kind, type[msgspec.Struct]] = {"rubric": RubricReply, "ranking": RankingReply}
_HIGHEST = 5
_LABEL_LENGTH = 12
"""A longer field is a reason."""
_ORDER_KEYS = ("ranking", "排名", "排序")
_SCORE_KEYS = ("score", "rating", "分数", "得分", "评分")
_MOST_KEYS = ("max", "max_score", "maximum", "scale", "out_of", "满分")
_WEIGHT_KEYS = ("weight", "权重")
_ANSWER_KEYS = frozenset({
    "scores", "score", "ratings", "rating", "evaluation", "result", "results", "judgment", "answer",
    "评分", "分数", "得分", "评价", "结果",
})  # fmt: skip
"""Fields below which an answer may stand."""
_OTHER_KEYS = frozenset({
    "weights", "weight", "max_scores", "max", "scale", "reasons", "reason", "reasoning", "comments",
    "explanations", "权重", "满分", "理由", "说明",
})  # fmt: skip
"""Fields below which the criteria are named for other ends."""
_TRAILING_COMMA = re.compile(r",(?=\s*[}\]])")
_OBJECT_BEGINS = re.compile(r"\{\s*(?:[\"'“‘]|\Z)")
_LINE_ENDS = re.compile(r"[\s`~,.;。，；)）】\]]*(?:\n|\Z|</)")
_PAIR = r"""(?<!\\)["']{key}["']\s*:\s*"""
_CORRECTS = re.compile(
    r"更正|修正|改为|改成|应为|重新|correct|actually|instead|revis", re.IGNORECASE
)

_ENTRY_WORDS = re.compile(
    r"\W*+(?:第?[0-9]+\W++)?(?:诗歌?|作品|候选|poem|candidate)?\W*+([A-Za-z])(?![\w])"
)
_NOT_OWN = re.compile(
    r"扣分|失分|参[考照]诗|参[考照]作品|第[一二两]首|其他评委|\bdeduct|\bpenalt|\breference poem"
    r"|\b(?:first|second) poem|\bother judge|\b(?:will|would|should) (?:look|be|return)",
    re.IGNORECASE,
)
"""Words before an object that is about something else."""
_TEN = re.compile(
    r"[十百]分制|(?<![0-9])100?\s*分制|满分\s*(?:为|是|:)?\s*(?:100?(?![0-9])|[十百])"
    r"|\bout of (?:100?|ten|a hundred)\b|(?<![0-9])[01]\s*(?:-|–|to)\s*100?\b"
    r"|\b(?:10|100|ten|hundred)[- ]point scale",
    re.IGNORECASE,
)
"""The same in a reasoning, where other fractions and ranges are about the poem."""


@cache
def schema_of(kind: Kind, labels: tuple[str, ...] = ()) -> dict[str, Any]:
    """The answer's JSON schema as strict servers want it: an object at the root, all required.

    Args:
        kind: Of the question.
        labels: Of the poems to be ordered: a small model would else put the poems' words there.
    """
    reply = _REPLIES[kind]
    schema = msgspec.json.schema(reply)
    root = schema["$defs"][reply.__name__]
    plain = {key: value for key, value in root.items() if key not in ("title", "description")}
    if kind == "ranking" and labels:
        items = {"type": "string", "enum": list(labels)}
        size = len(labels)
        order = {"type": "array", "items": items, "minItems": size, "maxItems": size}
        plain["properties"] = {**plain["properties"], "ranking": order}
    return plain


def read_scores(reply: str, shown: str = "") -> RubricScores | None:
    """The scores in an answer about one poem; None if it has none, or no clear ones.

    Args:
        reply: What the judge sent.
        shown: What it was shown: numbers it quotes from there are not its own.
    """
    answer = _without_quotes(_answer_in(reply), shown)
    parts = _taken_apart(answer, shown)
    if parts.is_broken:
        found = _scores_at_the_end(answer)
        return found if not parts.values else None
    said = prose.read_statements(parts.outside)
    if not parts.values:
        found = {name: said.scores.get(name, set()) for name in CRITERIA}
        return _scores(found) if said.is_clear else None
    if prose.is_on_another_scale(parts.outside) or _is_corrected(parts.after):
        return None
    scores = _only([_object_scores(each) for each in _holders(parts.values, _names_criteria)])
    own = msgspec.structs.asdict(scores) if scores else {}
    return scores if all(said.scores[name] <= {own.get(name)} for name in said.scores) else None


def read_ranking(reply: str, question: Question) -> tuple[str, ...] | None:
    """Ids of the poems from best to worst; None if the answer does not clearly order all."""
    labels = question.labels
    answer = _answer_in(reply)
    parts = _taken_apart(answer, "")
    said = prose.read_orders(parts.outside, labels)
    if parts.is_broken:
        order = _order_at_the_end(answer, labels) if not parts.values else None
    elif parts.values:
        holders = _holders(parts.values, lambda each: any(key in each for key in _ORDER_KEYS))
        order = _only([_object_order(each, labels) for each in holders])
    else:
        order = _only(list(said.whole)) if said.is_clear else None
    if order is None or said.whole - {order}:
        return None
    if parts.values and (prose.is_reversed(parts.outside) or _is_denied(parts.after, order)):
        return None
    ids = dict(zip(labels, question.candidates, strict=True))
    return tuple(ids[label] for label in order)


def _answer_in(reply: str) -> str:
    """The answer without its thought; nothing if a tag of one is left anywhere in it."""
    try:
        json.loads(reply)
    except (ValueError, RecursionError):
        answer = split_thought(reply).answer
        return "" if holds_tag(answer) else answer
    return reply  # a tag in a whole JSON text is part of a string


def _without_quotes(answer: str, shown: str) -> str:
    """Without lines that stand in the question, if they hold a number."""
    lines = {line.strip() for line in shown.splitlines() if any(c.isdigit() for c in line)}
    return "\n".join(line for line in answer.split("\n") if line.strip() not in lines)


def _taken_apart(answer: str, shown: str) -> _Parts:
    """Find the JSON objects of an answer."""
    text = _TRAILING_COMMA.sub("", answer)
    values: list[Any] = []
    outside: list[str] = []
    end = start = 0
    is_broken = False
    while not is_broken and (start := text.find("{", start)) >= 0:
        stop = start + 1
        try:
            value, after = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            is_broken |= _OBJECT_BEGINS.match(text, start) is not None
        else:
            stop = after
            if value and text[start:stop] not in shown and not _is_an_example(text[end:start]):
                outside.append(text[end:start])
                values.append(value)
                end = stop
                # Words on its line go on: it is mentioned, not given.
                is_broken |= _LINE_ENDS.match(text, stop) is None
        start = stop
    return _Parts(values, "\n".join([*outside, text[end:]]), text[end:], is_broken)


def _pairs(pairs: list[tuple[str, Any]]) -> Object:
    made: Object = {}
    for key, value in pairs:
        made[key] = value if key not in made or made[key] == value else _Contradiction()
    return made


def _no_number(word: str) -> Any:
    raise ValueError(word)


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_no_number, strict=False)


def _holders(value: Any, is_one: Callable[[Object], bool]) -> Iterator[Object]:
    """Objects that hold an answer, where an answer may stand; an empty one for one elsewhere."""
    if isinstance(value, list):
        for each in cast("list[Any]", value):
            yield from _holders(each, is_one)
    elif isinstance(value, dict):
        fields = cast("Object", value)
        if is_one(fields):
            yield fields
            return
        if _is_on_another_scale(fields):
            yield {}
        for key, inner in fields.items():
            for found in _holders(inner, is_one):
                if key.lower() in _ANSWER_KEYS:
                    yield found
                elif key.lower() not in _OTHER_KEYS:
                    yield {}


def _names_criteria(fields: Object) -> bool:
    return any(_criterion_of(key) for key in fields)


def _criterion_of(word: str) -> str | None:
    """The criterion that a word names, and nothing else; in JSON, say."""
    found = prose.NAME.match(word.strip())
    if found is None or not re.fullmatch(
        r"(?i)[_ ]?(?:score|得分|评分|分数)?", word.strip()[found.end() :]
    ):
        return None
    return found.lastgroup


def _object_scores(fields: Object) -> RubricScores | None:
    if _is_on_another_scale(fields) or _is_about_something_else(fields):
        return None
    found: dict[str, set[int | None]] = {name: set() for name in CRITERIA}
    for key, value in fields.items():
        if name := _criterion_of(key):
            found[name].add(_whole_number(value))
    return _scores(found)


def _scores(found: dict[str, Any]) -> RubricScores | None:
    """Scores if each criterion has one number."""
    single = {name: next(iter(set_)) for name, set_ in found.items() if len(set_) == 1}
    if len(single) < len(found) or None in single.values():
        return None
    return msgspec.convert(single, RubricScores)


def _whole_number(value: Any) -> int | None:
    """A score as a number, or as an object with that number and its reason."""
    if isinstance(value, dict):
        fields = cast("Object", value)
        scores = [fields[key] for key in _SCORE_KEYS if key in fields]
        known = (*_SCORE_KEYS, *_MOST_KEYS, *_WEIGHT_KEYS)
        others = [inner for key, inner in fields.items() if key not in known]
        is_clear = len(scores) == 1 and not any(isinstance(other, int | float) for other in others)
        if not is_clear or _is_on_another_scale(fields) or isinstance(scores[0], dict):
            return None
        return _whole_number(scores[0])
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and value in range(_HIGHEST + 1) else None


def _is_on_another_scale(fields: Object) -> bool:
    said = [value for key, value in fields.items() if key.lower() in _MOST_KEYS]
    said += [inner for value in said if isinstance(value, dict) for inner in value.values()]
    return any(
        value not in (_HIGHEST, str(_HIGHEST), "0-5")
        for value in said
        if not isinstance(value, dict)
    )


def _is_about_something_else(fields: Object) -> bool:
    """Whether an object says that it is a draft, an example, about another poem, or of ten."""
    words = [value for value in fields.values() if isinstance(value, str)]
    notes = [word for key, word in fields.items() if key.lower() not in _OTHER_KEYS]
    labels = [word for word in notes if isinstance(word, str) and len(word) <= _LABEL_LENGTH]
    labels += [key for key, value in fields.items() if value is True]
    return any(map(_speaks_of_ten, words)) or any(map(_is_an_example, labels))


def _is_an_example(text: str) -> bool:
    """Whether words before an object say that it is an example, a form, or about other numbers."""
    plain = prose.unexplained(text)
    own_line = plain.rpartition("\n")[2]
    above = (
        own_line if prose.OTHER_WORDS.search(own_line) else prose.heading_above(plain, len(plain))
    )
    return prose.SOMETHING_ELSE.search(above) is not None or _NOT_OWN.search(above) is not None


def _speaks_of_ten(text: str) -> bool:
    """Whether a reasoning says that its scores are of ten, or of a hundred."""
    return _TEN.search(prose.plain_of(text)) is not None


def _object_order(fields: Object, labels: tuple[str, ...]) -> tuple[str, ...] | None:
    notes = [value for key, value in fields.items() if key not in _OTHER_KEYS]
    if any(isinstance(note, str) and prose.is_no_order(note) for note in notes):
        return None
    orders = [fields[key] for key in _ORDER_KEYS if key in fields]
    if len(orders) != 1:
        return None
    order = _listed_order(orders[0], labels)
    words = [value for value in fields.values() if isinstance(value, str)]
    is_turned = any(prose.is_reversed(w) or (order and _turns_over(w, order)) for w in words)
    return None if is_turned else order


def _listed_order(value: Any, labels: tuple[str, ...]) -> tuple[str, ...] | None:
    """The order that a field holds, in labels or in one string."""
    if isinstance(value, str):
        said = prose.read_orders(f"ranking: {value}", labels)
        return _only(list(said.whole)) if said.is_clear else None
    entries = cast("list[Any]", value) if isinstance(value, list) else []
    entries = [_ranked_entry(entry) for entry in entries]
    return _order_of(entries, labels) if all(isinstance(e, str) for e in entries) else None


def _ranked_entry(entry: Any) -> Any:
    """A poem with its rank as one string, `1. C`."""
    fields = cast("Object", entry) if isinstance(entry, dict) else {}
    ranks = [fields[key] for key in ("rank", "名次", "排名") if key in fields]
    names = [fields[key] for key in ("label", "poem", "id", "代号", "诗") if key in fields]
    is_plain = len(ranks) == len(names) == 1 and isinstance(names[0], str)
    if not is_plain or len(fields) > len(ranks + names):
        return cast("Any", entry)
    return f"{ranks[0]}. {names[0]}"


def _order_of(entries: Sequence[str], labels: tuple[str, ...]) -> tuple[str, ...] | None:
    """The order in a list of entries, each of which names one label; None if it is not clear."""
    found = [_ENTRY_WORDS.match(entry) for entry in entries]
    counts = [re.match(r"\W*第?([0-9]+)\b", entry) for entry in entries]
    numbers = [count[1] for count in counts if count]
    if None in found or (numbers and numbers != [str(n) for n in range(1, len(entries) + 1)]):
        return None
    order = tuple(each[1].upper() for each in found if each)
    others = any(len(re.findall(r"(?<![A-Za-z])[A-Z](?![A-Za-z])", e.upper())) > 1 for e in entries)
    is_whole = sorted(order) == sorted(labels) and not others
    return order if is_whole and prose.fits("\n".join(entries), order) else None


def _turns_over(text: str, order: Sequence[str]) -> bool:
    """Whether a reasoning calls the first of an order the worst, or the last the best."""
    plain = prose.plain_of(text)
    is_worst = any(f["one"] == order[0] for f in prose.WORST.finditer(plain))
    return is_worst or any(
        f["one"] == order[-1] and re.search(r"最[好佳]|\bbest", f[0])
        for f in prose.BEST.finditer(plain)
    )


def _scores_at_the_end(answer: str) -> RubricScores | None:
    """Scores of an object that cannot be read before them, as quotes in the reasoning may do."""
    found = re.search(r"((?:,\s*[\"']\w+[\"']\s*:\s*[0-5]\s*+){4}),?\s*\}[\s`]*\Z", answer)
    names = {name: re.findall(_PAIR.format(key=name) + r"([^\s,}]*)", answer) for name in CRITERIA}
    if found is None or any(len(values) != 1 for values in names.values()):
        return None
    inside = all(re.search(_PAIR.format(key=name), found[1]) for name in CRITERIA)
    return _scores({name: {int(values[0])} for name, values in names.items()}) if inside else None


def _order_at_the_end(answer: str, labels: tuple[str, ...]) -> tuple[str, ...] | None:
    """The same of an order."""
    key = _PAIR.format(key="ranking")
    found = re.search(rf",\s*{key}\[([^\[\]{{}}]*)\]\s*+,?\s*\}}[\s`]*\Z", answer)
    if found is None or len(re.findall(key, answer)) != 1:
        return None
    return _order_of(found[1].rstrip(", \n").split(","), labels)


def _is_corrected(after: str) -> bool:
    """Whether words behind the object take something of it back."""
    said = prose.read_statements(after)
    if prose.is_taken_back(after):
        return True
    is_about = _speaks_of_criterion(after) or _CORRECTS.search(after) is not None
    return is_about and not said.is_clear


def _speaks_of_criterion(text: str) -> bool:
    """Whether a text speaks of any criterion."""
    return prose.NAME.search(text) is not None


def _is_denied(after: str, order: tuple[str, ...]) -> bool:
    is_corrected = _CORRECTS.search(after) is not None or prose.is_taken_back(after)
    return is_corrected or not prose.fits(after, order)


def _only(found: list[Any]) -> Any:
    """What all agree on."""
    return found[0] if found and all(value == found[0] for value in found) else None
