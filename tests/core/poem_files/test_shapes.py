"""Every shape of JSON that the original project or Verse writes is read, and read as what it is."""

import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from verse.poem_files import Found, LeftOut, Refused, Taken, read_content
from verse.records import Candidate, Decision, Poem, Undo

RIVER = "灯在水上走\n  没有回头"
NOW = datetime(2026, 11, 29, tzinfo=UTC)
LISTED = {
    "id": 7,
    "adaptor": "lora",
    "outer_idx": 2,
    "inner_idx": 1,
    "image": "河",
    "response": RIVER,
}
MADE = {"title": "河", "prompt": "写河", "checkpoint_number": 300,
        "checkpoint_path": "lora/0000300_adapters.safetensors", "body": RIVER}  # fmt: skip


def read(content: object) -> list[Found]:
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return read_content(text.encode(), Path("in.json"))


def lines(*records: msgspec.Struct) -> str:
    return msgspec.json.Encoder().encode_lines(records).decode()


POEMS: dict[str, object] = {
    "a flat list": [{"theme": "河", "text": RIVER}],
    "titles and bodies": [{"title": "河", "body": RIVER}],
    "rows by theme": {"河": [{"theme": "河", "text": RIVER}]},
    "rows by theme without a theme of their own": {"河": [{"body": RIVER}]},
    "poems by theme": {"河": [RIVER]},
    "rows in an object": {"made": "today", "poems": [{"theme": "河", "text": RIVER}]},
    "the window's save": [[["河", RIVER], ["", ""]], []],
    "an accepted row of the list": [LISTED | {"accepted": True}],
    "an accepted generation": [MADE | {"accepted": True}],
    "an accepted candidate": {"theme": "河", "text": RIVER, "adapter": "a", "answer": "accept"},
    "a title above its poem": {"text": f"河\n<|end|>\n{RIVER}"},
    "Windows line ends": {"text": f"河\r\n<|end|>\r\n{RIVER}\r\n"},
    "a conversation": {"messages": [{"role": "user", "content": "河"},
                                    {"role": "assistant", "content": RIVER}]},
    "prompt and completion": {"prompt": "河", "completion": RIVER},
    "Verse's poem": lines(Poem(theme="河", text=RIVER)),
    "decisions": lines(Decision(action="accept", candidate=Candidate(theme="河", text=RIVER),
                                blind=True, time=NOW)),
}  # fmt: skip


@pytest.mark.parametrize("shape", POEMS)
def test_a_poem_is_taken(shape: str) -> None:
    (piece,) = read(POEMS[shape])
    assert isinstance(piece, Taken), piece
    assert (piece.poem.theme, piece.poem.text) == ("河", RIVER)


UNREVIEWED: dict[str, object] = {
    "a row of the list without flags": [LISTED],
    "a generation": [MADE],
    "a generation by theme": {"河": [MADE | {"minimized": True}]},
    "a generation with a response": [{"theme": "河", "checkpoint_number": 3, "prompt": "写河",
                                      "checkpoint_path": "a/b", "response": RIVER}],
    "the oldest generator's": [{"prompt_phase": "河", "prompt": "写", "checkpoint_path": "a",
                                "generation": RIVER}],
    "a whole prompt": [{"prompt": "<|im_start|>system 写<|im_end|> <|im_start|>user 河<|im_end|>",
                        "checkpoint_path": "a", "body": RIVER}],
    "an answer": [{"theme": "河", "response": RIVER}],
    "a candidate": lines(Candidate(theme="河", text=RIVER, adapter="lora")),
    "a judged candidate": {"judges": [], "poems": [
        {"candidate": {"theme": "河", "text": RIVER}, "score": 3.5}]},
}  # fmt: skip


@pytest.mark.parametrize("shape", UNREVIEWED)
def test_what_a_model_wrote_and_nobody_accepted_is_unreviewed(shape: str) -> None:
    (piece,) = read(UNREVIEWED[shape])
    assert isinstance(piece, LeftOut), piece
    assert piece.reason == "unreviewed"
    assert piece.poem is not None
    assert (piece.poem.theme, piece.poem.text) == ("河", RIVER)
    assert piece.row


def test_gaps_that_the_window_leaves_for_deleted_poems_are_no_poems() -> None:
    pieces = read([[["河", RIVER], ["", ""]], [], [["雨", "落"]]])
    taken = [piece.poem for piece in pieces if isinstance(piece, Taken)]
    assert [(poem.theme, poem.origin) for poem in taken] == [("河", "accepted"), ("雨", "accepted")]
    assert len(pieces) == 2


def test_pieces_of_nested_lists_stand_at_their_lines() -> None:
    text = json.dumps([[["河", "水"], ["雨", "落"]], [["雪", "白"]]], ensure_ascii=False, indent=4)
    assert [piece.line for piece in read(text)] == [3, 7, 13]


def test_settings_are_no_poems_by_theme() -> None:
    pieces = read({"include": ["src"], "files": ["a.json", "b"]})
    assert {type(piece) for piece in pieces} == {Refused}


def decided(action: str, text: str, edited: str | None = None) -> Decision:
    made = {"action": action, "candidate": {"theme": "河", "text": text}, "text": edited}
    return msgspec.convert(made | {"blind": True, "time": NOW}, Decision)


def test_decisions_are_read_as_they_stand_after_undo() -> None:
    content = lines(
        decided("accept", "一"),
        decided("edit", "二", "二二"),
        decided("accept", "三"),
        Undo(undone=3, time=NOW),
        decided("reject", "四"),
        decided("skip", "五"),
    )
    pieces = read(content + '{"entry": "decis')
    taken = [(piece.poem.text, piece.poem.origin) for piece in pieces if isinstance(piece, Taken)]
    assert taken == [("一", "accepted"), ("二二", "edited")]
    assert [p.reason for p in pieces if isinstance(p, LeftOut)] == ["rejected", "not decided on"]
    assert [(p.line, p.fault) for p in pieces if isinstance(p, Refused)] == [(7, "torn")]


def test_ids_of_verse_are_kept_and_numbers_of_others_are_not() -> None:
    mine, other = read([{"theme": "河", "text": "水", "id": "0123456789abcdef"},
                        {"theme": "雨", "text": "落", "id": "1"}])  # fmt: skip
    assert isinstance(mine, Taken)
    assert isinstance(other, Taken)
    assert mine.poem.id == "0123456789abcdef"
    assert other.poem.id == Poem(theme="雨", text="落").id
