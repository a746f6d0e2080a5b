"""What rows of other tools say of their acceptance."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verse import jsonl
from verse.records import Poem
from verse.verdicts import (
    LeftOutError,
    VerdictError,
    list_verdict,
    read,
    read_verdict,
    scan,
)

POEM = {"theme": "河", "text": "水"}
CHAT = [{"role": "user", "content": "河"}, {"role": "assistant", "content": "水"}]


def encoded(row: object) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def verdict(**keys: Any) -> str | None:
    return read_verdict(encoded({**POEM, **keys})).verdict


def choices(*chosen: str, cancelled: bool = False) -> dict[str, Any]:
    """An annotation as Label Studio exports it."""
    value = {"value": {"choices": list(chosen)}, "type": "choices", "from_name": "kept"}
    return {"id": 7, "result": [value] if chosen else [], "was_cancelled": cancelled}


SAID: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    # Prodigy
    ({"answer": "accept", "_task_hash": 1}, "accepted"),
    ({"answer": "reject", "_task_hash": 1}, "rejected"),
    ({"answer": "ignore", "_task_hash": 1}, "undecided"),
    ({"answer": "REJECT "}, "rejected"),
    ({"answer": "四十二"}, None),
    ({"answer": None}, "undecided"),
    ({"verdict": None}, "undecided"),
    ({"decision": None, "accepted": True}, "undecided"),
    ({"status": None}, None),
    # KTO
    ({"label": True}, "accepted"),
    ({"label": False}, "rejected"),
    ({"label": "False"}, "rejected"),
    ({"label": None}, "undecided"),
    ({"label": "reject"}, "rejected"),
    ({"label": "现代诗"}, None),
    ({"kto_tag": False}, "rejected"),
    ({"kto_tag": 1}, "accepted"),
    # the original project's app
    ({"accepted": True, "edited": False, "deleted": False}, "accepted"),
    ({"accepted": True, "edited": True, "deleted": False}, "edited"),
    ({"accepted": False, "edited": True, "deleted": False}, "undecided"),
    ({"accepted": False, "edited": False, "deleted": False}, "undecided"),
    ({"accepted": False, "edited": False, "deleted": True}, "rejected"),
    ({"accepted": True, "edited": True, "deleted": True}, "rejected"),
    # such flags in other files
    ({"accepted": False}, "rejected"),
    ({"accepted": False, "edited": True}, "undecided"),
    ({"image": "河", "response": "水", "accepted": False}, "undecided"),
    ({"accepted": True}, "accepted"),
    ({"accepted": 0}, "rejected"),
    ({"accepted": "true"}, "accepted"),
    ({"accepted": "0"}, "rejected"),
    ({"deleted": "1"}, "rejected"),
    ({"kto_tag": "1"}, "accepted"),
    ({"accepted": "TRUE", "deleted": "FALSE"}, "accepted"),
    ({"accepted": None}, "undecided"),
    ({"approved": False}, "rejected"),
    ({"deleted": True}, "rejected"),
    ({"deleted": 1}, "rejected"),
    ({"deleted": False}, None),
    ({"deleted": None}, None),
    ({"rejected": True}, "rejected"),
    ({"rejected": False}, None),
    ({"rejected": "一首差的诗"}, None),
    ({"edited": True}, None),
    ({"skipped": True}, "undecided"),
    # words
    ({"status": "rejected"}, "rejected"),
    ({"status": "published"}, None),
    ({"decision": "approve"}, "accepted"),
    ({"decision": False}, "rejected"),
    ({"verdict": True}, "accepted"),
    ({"answer": False}, None),
    ({"verdict": "拒绝"}, "rejected"),
    ({"verdict": "通过"}, "accepted"),
    # Argilla
    ({"status": "discarded"}, "rejected"),
    ({"status": "draft"}, "undecided"),
    ({"status": "pending"}, "undecided"),
    ({"status": "submitted"}, None),
    ({"status": "completed", "responses": {"keep": [{"value": "x", "user_id": "u"}]}}, None),
    ({"status": "completed", "responses": {"kept": [{"value": "reject"}]}}, "rejected"),
    ({"responses": [{"status": "discarded", "values": None}]}, "rejected"),
    ({"responses": [{"status": "draft", "values": {}}]}, "undecided"),
    ({"responses": [{"status": "draft"}, {"status": "submitted", "values": {}}]}, None),
    ({"responses": [{"status": "submitted", "values": {"a": {"value": "reject"}}}]}, "rejected"),
    ({"q.responses": ["x"], "q.responses.status": ["discarded"]}, "rejected"),
    ({"q.responses": None, "q.responses.status": None}, None),
    # Label Studio
    ({"annotations": [choices("Reject")]}, "rejected"),
    ({"annotations": [choices("accept"), choices(cancelled=True)]}, "accepted"),
    ({"annotations": [choices(cancelled=True)]}, "undecided"),
    ({"annotations": []}, None),
    ({"annotations": [choices("现代诗")]}, None),
    ({"was_cancelled": True}, "undecided"),
    ({"judged": "Reject", "annotation_id": 3, "lead_time": 1.5}, "rejected"),
    ({"judged": {"choices": ["accept"]}, "annotation_id": 3, "lead_time": 1.5}, "accepted"),
    # weights
    ({"weight": 0}, "rejected"),
    ({"weight": -1.0}, "rejected"),
    ({"weight": 1}, None),
    ({"weight": None}, None),
    ({"weight": "0"}, "rejected"),
    ({"weight": "0.0 "}, "rejected"),
    ({"weight": "1"}, None),
    ({"weight": False}, "rejected"),
    ({"messages": [CHAT[0], {**CHAT[1], "weight": "0"}]}, "rejected"),
    ({"messages": [CHAT[0], {**CHAT[1], "weight": 0}]}, "rejected"),
    ({"messages": [CHAT[0], {**CHAT[1], "weight": 1}]}, None),
    ({"messages": [{**CHAT[0], "weight": 0}, CHAT[1]]}, None),
    # several of them
    ({"label": "现代诗", "answer": "reject"}, "rejected"),
    ({"status": "pending", "accepted": True}, "undecided"),
    ({"status": "discarded", "label": None}, "rejected"),
]


@pytest.mark.parametrize(("keys", "expected"), SAID, ids=[str(keys)[:60] for keys, _ in SAID])
def test_what_a_row_says(keys: dict[str, Any], expected: str | None) -> None:
    assert verdict(**keys) == expected


UNCLEAR: list[tuple[dict[str, Any], str]] = [
    ({"answer": "maybe", "_input_hash": 1}, "answer: maybe is none of accept, reject and ignore"),
    ({"label": 0}, "label: 0 may be a verdict or a class"),
    ({"label": 1}, "label: 1 may be a verdict or a class"),
    ({"label": "0"}, "label: 0 may be a verdict or a class"),
    ({"accepted": "maybe"}, "accepted: maybe is neither true nor false"),
    ({"accepted": 2}, "accepted: 2 is neither true nor false"),
    ({"deleted": [1]}, "deleted: [1] is neither true nor false"),
    ({"label": False, "answer": "accept"}, "answer: accept and label: false contradict each other"),
    ({"accepted": True, "rejected": True}, "contradict each other"),
    ({"annotations": [choices("accept"), choices("reject")]}, "its annotations do not agree"),
    ({"responses": [{"status": "submitted"}, {"status": "discarded"}]}, "its responses do not"),
    (
        {"messages": [*CHAT, CHAT[0], {**CHAT[1], "weight": 0}]},
        "some of its answers have weight 0",
    ),
]


@pytest.mark.parametrize(("keys", "said"), UNCLEAR, ids=[said for _, said in UNCLEAR])
def test_what_is_not_plain_is_refused_by_name(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(VerdictError) as caught:
        verdict(**keys)
    assert said in str(caught.value)


UNKNOWN: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
    ({"quality": "bad"}, [("quality", "bad")]),
    ({"rating": 1}, [("rating", "1")]),
    ({"isGood": False}, [("isGood", "false")]),
    ({"is_good": False}, [("is_good", "false")]),
    ({"keep": False}, [("keep", "false")]),
    ({"flag": True}, [("flag", "true")]),
    ({"note": "bad"}, [("note", "bad")]),
    ({"审核": "拒绝"}, [("审核", "拒绝")]),
    ({"采用": False}, [("采用", "false")]),
    ({"comment": "拒绝"}, [("comment", "拒绝")]),
    ({"status": "published"}, [("status", "published")]),
    ({"answer": "bad"}, [("answer", "bad")]),
    ({"decision": "later"}, [("decision", "later")]),
    ({"label": "bad"}, [("label", "bad")]),
    ({"weight": 0.5}, [("weight", "0.5")]),
    ({"weight": "0.5"}, [("weight", "0.5")]),
    ({"weight": "heavy"}, [("weight", "heavy")]),
    ({"meta": {"status": "rejected"}}, [("meta.status", "rejected")]),
    ({"quality": None, "rating": ""}, []),
    ({"theme": "通过", "text": "bad", "title": "拒绝"}, []),
    ({"origin": "accepted", "source": "rejected"}, []),
    ({"status": "submitted", "answer": "四十二", "label": "现代诗", "weight": 1}, []),
    ({"weight": "1"}, []),
    ({"length": 3, "author": "某某", "goodness": 1, "书": "好书"}, []),
    ({"quality": "长" * 40}, [("quality", "长" * 23 + "…")]),
]


@pytest.mark.parametrize(("keys", "expected"), UNKNOWN, ids=[str(k)[:60] for k, _ in UNKNOWN])
def test_an_unknown_key_that_sounds_like_a_verdict_is_named_and_not_obeyed(
    keys: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    reading = read_verdict(encoded({**POEM, **keys}))
    assert (reading.verdict, list(reading.unknown)) == (None, expected)


def test_the_reading_says_which_key_decided() -> None:
    reading = read_verdict(encoded({**POEM, "answer": "reject"}))
    assert (reading.because, reading.is_left_out, reading.reason) == (
        "answer: reject",
        True,
        "rejected",
    )
    assert read_verdict(encoded({**POEM, "label": None})).reason == "not decided on"


@pytest.mark.parametrize("row", [b"[1]", b'"accepted"', b"3", b'{"a', b"\xff"])
def test_what_is_no_object_says_nothing(row: bytes) -> None:
    assert read_verdict(row).verdict is None


@given(st.booleans(), st.booleans(), st.booleans())
def test_the_lists_flags_read_alike_in_a_row_and_by_themselves(
    accepted: bool, edited: bool, deleted: bool
) -> None:
    flags = {"accepted": accepted, "edited": edited, "deleted": deleted}
    assert verdict(**flags) == list_verdict(**flags)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["accept", "bad", "", "否"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["status", "value", "choices", "result"]), inner)
    ),
    max_leaves=4,
)
KEYS = st.sampled_from(
    ["answer", "label", "accepted", "deleted", "edited", "status", "responses", "annotations",
     "weight", "messages", "rejected", "meta", "quality", "annotation_id", "lead_time"]
)  # fmt: skip


@given(st.dictionaries(KEYS, JSON))
def test_any_row_is_read_or_refused_and_never_breaks_the_reader(row: dict[str, Any]) -> None:
    try:
        reading = read_verdict(encoded(row))
    except VerdictError:
        return
    assert (reading.verdict is None) == (not reading.because)


@given(
    st.dictionaries(KEYS, JSON),
    st.sampled_from(
        [
            {"answer": "reject"},
            {"label": False},
            {"deleted": True},
            {"status": "discarded"},
            {"weight": 0},
            {"annotations": [choices("reject")]},
            {"responses": [{"status": "discarded"}]},
        ]
    ),
)
def test_no_other_key_outvotes_a_rejection(row: dict[str, Any], no: dict[str, Any]) -> None:
    try:
        reading = read_verdict(encoded({**row, **no}))
    except VerdictError:
        return
    assert reading.verdict == "rejected"


def test_records_to_learn_from_are_scanned_with_those_left_out_as_errors(tmp_path: Path) -> None:
    file = tmp_path / "poems.jsonl"
    rows = [POEM, {**POEM, "accepted": False}, {"theme": "河"}, {**POEM, "label": 0}]
    file.write_bytes(b"\n".join(map(encoded, rows)) + b'\n{"theme')
    decoder = msgspec.json.Decoder(Poem)
    found = dict(scan(file, decoder))
    assert isinstance(found[1], Poem)
    assert [type(found[line]) for line in (2, 3, 4, 5)] == [
        LeftOutError,
        jsonl.JsonlError,
        LeftOutError,
        jsonl.TornLineError,
    ]
    assert str(found[2]) == (
        f"{file}:2: it was rejected (accepted: false); take the line out, or let "
        "`verse data import` read the file, which leaves such lines out."
    )
    with pytest.raises(LeftOutError, match=r"poems\.jsonl:2: it was rejected"):
        read(file, decoder)
