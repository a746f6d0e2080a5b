"""What a row of another tool says of its acceptance: one reading of it for all who read rows.

These keys are known to hold a verdict:

    answer                        Prodigy: accept, reject or ignore
    status, verdict, decision     of any tool, where the value is one of the words below
    label, kto_tag                KTO, as TRL and LLaMA-Factory have it: true or false
    accepted, approved            true or false
    deleted, rejected             flags; with `accepted` and `edited` those of the original
                                  project's app
    cancelled, skipped, ...       flags: the annotator passed the row over
    responses, *.responses.status Argilla: submitted, discarded, draft or pending
    annotations                   Label Studio: `was_cancelled`, and choices that are such words
    weight                        OpenAI, of an answer, or of the row: 0 is not to be learned

Where that is not plain, the row is refused by name (`VerdictError`) and nothing is guessed: a value
that is none of these, 0 or 1 as a `label` (it may be a class), keys that contradict each other.
What CSV and the head of a text file make of a boolean or a number ("False", 1, "0") is read as one
where only that makes sense. null means "not decided" under a key that asks for a verdict, and
nothing under a flag, a status or a weight.

`edited` alone decides nothing. The app that writes it lists as accepted what has `accepted` and not
`deleted`, and its editor sets `edited` and leaves `accepted` as it was. So an edited poem that is
not accepted is one that the poet has worked on and not decided about.

A key that is not known and sounds like a verdict, by name or value, is only reported.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from verse import jsonl

T = TypeVar("T")
Verdict = Literal["accepted", "edited", "rejected", "undecided"]
"""`edited` is accepted in a changed form."""
_Row = Mapping[str, Any]

_VOCABULARY: Mapping[Verdict, str] = {
    "accepted": "accept accepted approve approved 采用 通过 接受 录用 收录",
    "rejected": "reject rejected discard discarded delete deleted decline declined disapproved "
    "拒绝 不通过 未通过 不采用 未采用 退稿 淘汰 弃用 删除",
    "undecided": "ignore ignored skip skipped pending draft undecided unreviewed "
    "待定 待审 未审核 未定 跳过 草稿",
}
_WORDS: Mapping[str, Verdict] = {
    word: verdict for verdict, words in _VOCABULARY.items() for word in words.split()
}
_ANSWERED = ("submitted", "completed", "validated")
"""Argilla's states that say somebody answered, and not what."""
_YES_NO = {"true": True, "yes": True, "false": False, "no": False}
_DIGITS = {"1": True, "0": False}

_WORD_KEYS = ("answer", "status", "verdict", "decision")
_QUESTIONS = ("label", "kto_tag", "approved")
_LIST_FLAGS = ("accepted", "edited", "deleted")
_OF_THE_APP = ("edited", "deleted", "image")
_PASSED_OVER = ("cancelled", "was_cancelled", "skipped", "was_skipped")
_STRUCTURES = ("responses", "annotations", "rejected")
_PRODIGY = ("_input_hash", "_task_hash")
_LABEL_STUDIO = ("annotation_id", "lead_time")
"""Mark Label Studio's short form of JSON, where choices stand under names of the user's own."""


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NEVER = _words_of(
    "theme title text poem body response image messages prompt completion raw system input output "
    "instruction question chosen id source origin variant action finish_reason blocked "
    "题目 标题 主题 内容 正文 诗"
)
"""Keys that hold no verdict, whatever words stand in a poem or its title."""
_SOUNDING_NAMES = _words_of(
    "quality rating rated grade graded verdict decision status keep kept approve approved accept "
    "accepted reject rejected discard discarded good bad flag flagged vote votes review reviewed "
    "like liked dislike disliked thumbs usable exclude excluded include included skip skipped "
    "ignore ignored"
)
_SOUNDING_CHINESE = ("拒绝", "采用", "通过", "审核", "评价", "评级", "评分", "录用", "退稿", "合格")
_SOUNDING_VALUES = _words_of("good bad poor great keep drop ok 好 差 坏 不好 合格 不合格")
_SHOWN_CHARACTERS = 24


class VerdictError(ValueError):
    """The row's verdict cannot be read for certain; says what is wrong, with no full stop."""


class LeftOutError(jsonl.JsonlError):
    """The line is a record, and one that nobody is to learn from."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What a row says of its acceptance."""

    verdict: Verdict | None = None
    """None: nothing."""
    because: str = ""
    """The key and value that said it: `answer: reject`."""
    unknown: tuple[tuple[str, str], ...] = ()
    """Keys that are not known and sound like a verdict, each with its value."""

    @property
    def is_left_out(self) -> bool:
        """Whether nobody is to learn from the row."""
        return self.verdict in ("rejected", "undecided")

    @property
    def reason(self) -> str:
        """Completes `it was ...` for what is left out."""
        return "rejected" if self.verdict == "rejected" else "not decided on"


class _Said(msgspec.Struct, frozen=True):
    verdict: Verdict
    because: str


class _Annotation(msgspec.Struct, frozen=True):
    """Of Label Studio."""

    was_cancelled: bool | None = None
    result: list[dict[str, Any]] = []


class _Response(msgspec.Struct, frozen=True):
    """Of Argilla: all answers of a person, or one of them in newer files."""

    status: str | None = None
    value: Any = None
    values: dict[str, Any] | None = None


class _Turn(msgspec.Struct, frozen=True):
    role: str
    weight: Any = None


def read_verdict(row: bytes | msgspec.Raw) -> Reading:
    """Read what a row of JSON says of its acceptance; nothing, if it is no object.

    Raises:
        VerdictError: a key known to hold a verdict holds something else, or keys contradict.
    """
    try:
        keys = msgspec.json.decode(row, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Reading()
    readers = (_words, _questions, _list_flags, _flags, _argilla, _label_studio, _weights)
    said = _together([one for read in readers for one in read(keys)])
    unknown = tuple(_unknown(keys))
    if said is None:
        return Reading(unknown=unknown)
    return Reading(verdict=said.verdict, because=said.because, unknown=unknown)


def list_verdict(*, accepted: bool, edited: bool, deleted: bool) -> Verdict:
    """What the flags of the original project's app say together; none of them: undecided."""
    if deleted:
        return "rejected"
    if not accepted:
        return "undecided"
    return "edited" if edited else "accepted"


def refuse_left_out(row: bytes | msgspec.Raw) -> Reading:
    """Read the verdict on a row that is about to be learned from.

    Raises:
        VerdictError: nobody is to learn from it, or that cannot be told for certain.
    """
    reading = read_verdict(row)
    if reading.is_left_out:
        raise VerdictError(
            f"it was {reading.reason} ({reading.because}); take the line out, or let "
            "`verse data import` read the file, which leaves such lines out"
        )
    return reading


def scan(
    path: Path, decoder: msgspec.json.Decoder[T]
) -> Iterator[tuple[int, T | jsonl.JsonlError]]:
    """Like `jsonl.scan`, for records to learn from: one that says it is not to be is an error.

    Raises:
        OSError: the file cannot be read.
    """
    for number, raw in jsonl.scan(path, msgspec.json.Decoder(msgspec.Raw)):
        if isinstance(raw, jsonl.JsonlError):
            yield number, raw
        else:
            yield number, _decoded(path, number, raw, decoder)


def read(path: Path, decoder: msgspec.json.Decoder[T]) -> list[T]:
    """Like `jsonl.read`, for records to learn from.

    Raises:
        JsonlError: the first line that is no such record, or says that it is not to be learned.
        OSError: the file cannot be read.
    """
    records: list[T] = []
    for _, record in scan(path, decoder):
        if isinstance(record, jsonl.JsonlError):
            raise record
        records.append(record)
    return records


def _decoded(
    path: Path, number: int, raw: msgspec.Raw, decoder: msgspec.json.Decoder[T]
) -> T | jsonl.JsonlError:
    try:
        record = decoder.decode(raw)
        refuse_left_out(raw)
    except VerdictError as error:
        return LeftOutError(path, number, f"{error}.")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return jsonl.JsonlError(path, number, f"{error}.")
    return record


def _words(row: _Row) -> Iterator[_Said]:
    for key in _WORD_KEYS:
        if key in row and (verdict := _worded(key, row[key])):
            yield _Said(verdict, _shown(key, row[key]))
    answer = row.get("answer")
    if any(mark in row for mark in _PRODIGY) and answer is not None and not _word(answer):
        raise VerdictError(f"{_shown('answer', answer)} is none of accept, reject and ignore")


def _worded(key: str, value: object) -> Verdict | None:
    if value is None and key != "status":
        return "undecided"
    if isinstance(value, bool) and key in ("verdict", "decision"):
        return "accepted" if value else "rejected"
    return _word(value)


def _questions(row: _Row) -> Iterator[_Said]:
    for key in _QUESTIONS:
        if key in row and (verdict := _answer(key, row[key])):
            yield _Said(verdict, _shown(key, row[key]))


def _answer(key: str, value: object) -> Verdict | None:
    if value is None:
        return "undecided"
    if verdict := _word(value):
        return verdict
    if key == "label" and not isinstance(value, bool) and _folded(value) not in _YES_NO:
        if isinstance(value, str) and _folded(value) not in _DIGITS:
            return None  # a class
        raise VerdictError(
            f"{_shown(key, value)} may be a verdict or a class; write true or false, or drop it"
        )
    return "accepted" if _boolean(key, value) else "rejected"


def _list_flags(row: _Row) -> Iterator[_Said]:
    flags = {key: _flag(key, row.get(key)) for key in _LIST_FLAGS}
    if "accepted" in row or flags["deleted"]:
        verdict = list_verdict(**flags)
        # Other files say no by `accepted: false`; in the app's it is as yet neither yes nor no.
        is_no = verdict == "undecided" and row["accepted"] is not None
        if is_no and not any(key in row for key in _OF_THE_APP):
            verdict = "rejected"
        key = "deleted" if flags["deleted"] else "accepted"
        yield _Said(verdict, _shown(key, row[key]))


def _flags(row: _Row) -> Iterator[_Said]:
    for key in _PASSED_OVER:
        if _flag(key, row.get(key)):
            yield _Said("undecided", _shown(key, row[key]))
    rejected = row.get("rejected")  # in a pair of answers, the text of the worse one
    is_text = isinstance(rejected, str) and _folded(rejected) not in _YES_NO
    if not is_text and not isinstance(rejected, list | dict) and _flag("rejected", rejected):
        yield _Said("rejected", _shown("rejected", rejected))


def _argilla(row: _Row) -> Iterator[_Said]:
    of_people = _as(row.get("responses"), list[_Response]) or []
    of_questions = _as(row.get("responses"), dict[str, list[_Response]]) or {}
    responses = [*of_people, *(one for each in of_questions.values() for one in each)]
    states: list[Any] = [response.status for response in responses]
    for key, value in row.items():
        if key.endswith(".responses.status"):
            states += _as(value, list[Any]) or []
    values = [v for one in responses for v in (one.value, *(one.values or {}).values())]
    values = [value["value"] if _is_wrapped(value) else value for value in values]
    is_answered = any(state in _ANSWERED for state in states)
    yield from _agreed(states, "responses", is_answered=is_answered)
    yield from _agreed(values, "responses")


def _is_wrapped(value: object) -> bool:
    return isinstance(value, dict) and "value" in value


def _label_studio(row: _Row) -> Iterator[_Said]:
    words: list[Any] = []
    for annotation in _as(row.get("annotations"), list[_Annotation]) or []:
        if annotation.was_cancelled:
            words.append("skipped")
        for result in annotation.result:
            words += _choices(result.get("value"))
    yield from _agreed(words, "annotations")
    if all(mark in row for mark in _LABEL_STUDIO):
        for key, value in row.items():
            if key not in _NEVER:
                yield from _agreed([value, *_choices(value)], key)


def _choices(value: object) -> list[Any]:
    given = _as(value, dict[str, Any]) or {}
    return _as(given.get("choices"), list[Any]) or []


def _agreed(words: Iterable[Any], where: str, *, is_answered: bool = False) -> Iterator[_Said]:
    """The one verdict of several people; who passed the row over leaves it to the others."""
    found: list[Verdict] = [verdict for verdict in map(_word, words) if verdict]
    decided: list[Verdict] = [verdict for verdict in found if verdict != "undecided"]
    if len(set(decided)) > 1 or ("rejected" in decided and is_answered):
        raise VerdictError(f"its {where} do not agree whether it was rejected")
    if decided or (found and not is_answered):
        yield _Said((decided or found)[0], where)


def _weights(row: _Row) -> Iterator[_Said]:
    if _is_unlearned(row.get("weight")):
        yield _Said("rejected", _shown("weight", row["weight"]))
    turns = _as(row.get("messages"), list[_Turn]) or []
    is_unlearned = [_is_unlearned(turn.weight) for turn in turns if turn.role == "assistant"]
    if is_unlearned and all(is_unlearned):
        yield _Said("rejected", "weight: 0")
    elif any(is_unlearned):
        raise VerdictError(
            "some of its answers have weight 0, and a row is learned whole; split it"
        )


def _together(said: Iterable[_Said]) -> _Said | None:
    """One verdict of all keys: what keeps a row from being learned outweighs what does not."""
    by_verdict: dict[Verdict, _Said] = {}
    for one in said:
        by_verdict.setdefault(one.verdict, one)
    taken = by_verdict.get("edited") or by_verdict.get("accepted")
    rejected = by_verdict.get("rejected")
    if taken and rejected:
        raise VerdictError(
            f"{taken.because} and {rejected.because} contradict each other; keep the right one"
        )
    return rejected or by_verdict.get("undecided") or taken


def _unknown(row: _Row) -> Iterator[tuple[str, str]]:
    """Keys, those inside of `meta` too, that sound like a verdict and were not obeyed."""
    inner = _as(row.get("meta"), dict[str, Any]) or {}
    for key, value in {**row, **{f"meta.{key}": inner[key] for key in inner}}.items():
        if not (key in _NEVER or _is_obeyed(key, value) or value in (None, "", [], {})):
            is_weight = key == "weight" and _number(value) != 1
            if is_weight or _name_sounds(key) or _value_sounds(value):
                yield key, _text(value)


def _is_obeyed(key: str, value: object) -> bool:
    """Whether all that the key can say was read; odd words and weights are not."""
    if key in _WORD_KEYS:
        return _worded(key, value) is not None or _folded(value) in _ANSWERED
    if key == "label":
        return not isinstance(value, str) or _folded(value) in (*_WORDS, *_YES_NO)
    if key == "weight":
        return _is_unlearned(value)
    known = (*_QUESTIONS, *_LIST_FLAGS, *_PASSED_OVER, *_STRUCTURES)
    return key in known or ".responses" in key


@lru_cache(256)  # all rows of a file have the same keys
def _name_sounds(key: str) -> bool:
    parted = re.sub(r"([a-z])([A-Z])", r"\1 \2", key).casefold()
    is_english = not _SOUNDING_NAMES.isdisjoint(re.split(r"[^a-z]+", parted))
    return is_english or any(word in key for word in _SOUNDING_CHINESE)


def _value_sounds(value: object) -> bool:
    return _word(value) is not None or _folded(value) in _SOUNDING_VALUES


def _word(value: object) -> Verdict | None:
    return _WORDS.get(_folded(value))


def _folded(value: object) -> str:
    return value.strip().casefold() if isinstance(value, str) else ""


def _flag(key: str, value: object) -> bool:
    return value is not None and _boolean(key, value)


def _boolean(key: str, value: object) -> bool:
    """A value where only a boolean makes sense: CSV writes one as a word, or as 0 and 1."""
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    known = _YES_NO | _DIGITS
    if (word := _folded(value)) in known:
        return known[word]
    raise VerdictError(f"{_shown(key, value)} is neither true nor false")


def _is_unlearned(weight: object) -> bool:
    number = _number(weight)
    return number is not None and number <= 0


def _number(value: object) -> float | None:
    """A number, also where CSV or the head of a text file made a word of it."""
    if isinstance(value, int | float):
        return value
    try:
        return float(_folded(value))
    except ValueError:
        return None


def _as(value: object, kind: type[T]) -> T | None:
    if value is None:
        return None
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return None


def _shown(key: str, value: object) -> str:
    return f"{key}: {_text(value)}"


def _text(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"
