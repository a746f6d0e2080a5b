"""The original project's lists come back whole: every row, with its own fields, in its place."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.clients.curate.conftest import make_session
from verse.cli import main
from verse.replay import Replay, accepted_poems
from verse_clients.curate.app import open_app
from verse_clients.curate.keymap import read_keymap
from verse_clients.decisions.original_list import lists_among, seed_list
from verse_clients.decisions.sources import past_decisions, read_decisions, read_items

NOW = datetime(2026, 11, 29, tzinfo=UTC)


def row(number: int, outer: int, inner: int, text: str, **flags: bool) -> dict[str, Any]:
    """With fields in the window's own order, and one that Verse knows nothing of."""
    decided = {"accepted": False, "edited": False, "deleted": False} | flags
    place = {"adaptor": "lora", "outer_idx": outer, "inner_idx": inner}
    return {
        **place,
        "image": f"题{outer}",
        "response": text,
        **decided,
        "id": number,
        "note": "手记",
    }


ROWS = [
    row(40, 3, 0, "没看的"),
    row(12, 0, 5, "收下的", accepted=True),
    row(13, 0, 6, "改过的", accepted=True, edited=True),
    row(77, 9, 1, "删掉的", deleted=True),
    row(78, 9, 2, "只改过的", edited=True),
]
NESTED = [[["河", "水"], ["", ""], ["雨", "落"]], [], [["雪", "白"]]]


def dumped(content: object, indent: int = 4) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=indent).encode()


@pytest.mark.parametrize("content", [dumped(ROWS), dumped(ROWS, 2), dumped(NESTED)])
def test_a_list_about_which_nothing_new_was_decided_comes_back_byte_for_byte(
    content: bytes, tmp_path: Path
) -> None:
    (file := tmp_path / "overall_poems.json").write_bytes(content)
    assert seed_list(past_decisions(read_items([file]), NOW), lists_among([file])) == content


def test_what_was_decided_changes_its_row_alone(tmp_path: Path) -> None:
    (file := tmp_path / "overall_poems.json").write_bytes(dumped(ROWS))
    session = make_session(read_items([file])[:1])
    session.edit("没看的\n改了")
    rows = json.loads(seed_list(session.replay.verdicts(), [file.read_bytes()]))
    assert rows == [
        ROWS[0] | {"response": "没看的\n改了", "accepted": True, "edited": True},
        *ROWS[1:],
    ]
    assert list(rows[0]) == list(ROWS[0])


def test_a_nested_list_loses_what_was_rejected_and_keeps_the_other_places(tmp_path: Path) -> None:
    (file := tmp_path / "updated_overall_poems.json").write_bytes(dumped(NESTED))
    session = make_session(read_items([file]))
    session.decide("reject")
    session.edit("落下")
    session.decide("reject")
    rows = json.loads(seed_list(session.replay.verdicts(), [file.read_bytes()]))
    assert rows == [[["", ""], ["", ""], ["雨", "落下"]], [], []]


def test_poems_of_other_files_stand_behind_the_rows(tmp_path: Path) -> None:
    (file := tmp_path / "overall_poems.json").write_bytes(dumped(ROWS))
    (other := tmp_path / "more.jsonl").write_text('{"theme": "灯", "text": "亮", "adapter": "a"}\n')
    session = make_session(read_items([other]))
    session.decide("accept")
    new = json.loads(seed_list(session.replay.verdicts(), [file.read_bytes()]))[-1]
    assert (new["id"], new["outer_idx"], new["inner_idx"], new["image"]) == (79, 10, 0, "灯")
    assert new["accepted"] is True


def test_export_finds_the_list_that_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("overall_poems.json").write_bytes(dumped(ROWS))
    app = open_app([Path("overall_poems.json")], Path("decisions.jsonl"), read_keymap(None))
    app.session.decide("reject")
    app.keep_state(app.session.state())
    app.journal.close()
    assert main(["curate", "export"]) == 0
    rows = json.loads(Path("decisions-export/updated_overall_poems.json").read_text("utf-8"))
    assert [r["id"] for r in rows] == [r["id"] for r in ROWS]
    assert len([r["id"] for r in rows if r["deleted"]]) == 2


def test_what_the_window_saved_was_kept_and_is_shown_undecided(tmp_path: Path) -> None:
    (file := tmp_path / "updated_overall_poems.json").write_bytes(dumped(NESTED))
    accepted = accepted_poems(Replay(read_decisions([file])))
    assert [(poem.theme, poem.text) for poem in accepted] == [
        ("河", "水"), ("雨", "落"), ("雪", "白"),
    ]  # fmt: skip
    assert [item.past for item in read_items([file])] == [None, None, None]
