import json
from pathlib import Path

import msgspec
import pytest

from tests.clients.curate.conftest import make_session
from verse.records import Candidate, JournalEntry, PreferencePair, TrainingExample
from verse_clients.curate.session import CurationSession
from verse_clients.decisions import DecisionsError, exports
from verse_clients.decisions.sources import Item, read_items


def poem(theme: str, text: str) -> Item:
    return Item(candidate=Candidate(theme=theme, text=text, adapter="hushi"))


def decided() -> CurationSession:
    session = make_session(
        [
            poem("雨", "雨落在屋檐\n像一封信"),
            poem("雨", "傍晚的雨\n把城市洗得很轻"),
            poem("雨", "河水流啊流\n流向大海啊"),
            poem("河", "河不回头\n  带走一点"),
            poem("灯", "夜深了"),
        ]
    )
    session.decide("accept")
    session.edit("傍晚的雨\n把城市洗得更轻")
    session.decide("reject")
    session.decide("accept")
    session.decide("skip")
    session.compare(session.items[0], session.items[1], "right")
    return session


def rows(entries: list[JournalEntry], name: str) -> list[bytes]:
    return exports.files(entries)[name].splitlines()


def test_accepted_and_edited_poems_become_conversations() -> None:
    lines = rows(decided().replay.entries, "sft.jsonl")
    examples = [msgspec.json.decode(line, type=TrainingExample) for line in lines]
    assert [e.messages[1].content for e in examples] == [
        "雨落在屋檐\n像一封信", "傍晚的雨\n把城市洗得更轻", "河不回头\n  带走一点",
    ]  # fmt: skip
    assert [e.messages[0].content for e in examples] == ["雨", "雨", "河"]
    assert [e.origin for e in examples] == ["accepted", "edited", "accepted"]


def test_pairs_say_why_the_one_is_better() -> None:
    lines = rows(decided().replay.entries, "pairs.jsonl")
    pairs = [msgspec.json.decode(line, type=PreferencePair) for line in lines]
    assert [(p.reason, p.chosen[:4], p.rejected[:4]) for p in pairs] == [
        ("edited", "傍晚的雨", "傍晚的雨"),
        ("compared", "傍晚的雨", "雨落在屋"),
        ("accepted", "雨落在屋", "河水流啊"),
        ("accepted", "傍晚的雨", "河水流啊"),
    ]


def test_pairs_that_teach_length_or_nothing_are_left_out() -> None:
    session = make_session(
        [
            poem("雨", "雨落在屋檐像一封信"),
            poem("雨", "雨落在屋檐像一封信。"),
            poem("雨", "长" * 60),
        ]
    )
    session.decide("accept")
    session.decide("reject")
    session.decide("reject")
    assert rows(session.replay.entries, "pairs.jsonl") == []


def test_no_poem_is_in_more_than_four_mined_pairs() -> None:
    session = make_session([poem("雨", f"{'雨风雪月花鸟山河'[n]}落在屋檐上面") for n in range(8)])
    session.decide("accept")
    for _ in range(7):
        session.decide("reject")
    assert len(rows(session.replay.entries, "pairs.jsonl")) == 4


def test_a_pair_compared_again_counts_once_by_the_last_word() -> None:
    session = make_session([poem("雨", "雨落在屋檐"), poem("雨", "河不回头呀")])
    session.compare(session.items[0], session.items[1], "left")
    session.compare(session.items[1], session.items[0], "left")
    [line] = rows(session.replay.entries, "pairs.jsonl")
    assert msgspec.json.decode(line, type=PreferencePair).chosen == "河不回头呀"


def test_rejected_poems_are_listed_as_the_model_wrote_them() -> None:
    [line] = rows(decided().replay.entries, "rejected.jsonl")
    assert msgspec.json.decode(line, type=Candidate).text == "河水流啊流\n流向大海啊"


def test_the_original_list_carries_its_flags_and_is_read_again(tmp_path: Path) -> None:
    content = exports.files(decided().replay.entries)["updated_overall_poems.json"]
    flags = [
        (row["image"], row["outer_idx"], row["inner_idx"], row["accepted"], row["edited"],
         row["deleted"])
        for row in json.loads(content)
    ]  # fmt: skip
    assert flags == [
        ("雨", 0, 0, True, False, False),
        ("雨", 0, 1, True, True, False),
        ("雨", 0, 2, False, False, True),
        ("河", 1, 0, True, False, False),
    ]
    path = tmp_path / "list.json"
    path.write_bytes(content)
    assert [item.past for item in read_items([path])] == ["accept", "edit", "reject", "accept"]


def test_the_book_has_poems_by_theme_with_their_line_breaks() -> None:
    book = exports.files(decided().replay.entries)["chapbook.md"].decode()
    assert book == (
        "# 诗集\n\n## 雨\n\n雨落在屋檐\\\n像一封信\n\n\\* \\* \\*\n\n"
        "傍晚的雨\\\n把城市洗得更轻\n\n## 河\n\n河不回头\\\n\u2003带走一点\n"
    )


def test_the_book_takes_markdowns_signs_for_what_they_are() -> None:
    session = make_session([poem("#1", "# 一\n- 二\n1. 三\n*四*")])
    session.decide("accept")
    book = exports.files(session.replay.entries)["chapbook.md"].decode()
    assert book == "# 诗集\n\n## \\#1\n\n\\# 一\\\n\\- 二\\\n1\\. 三\\\n\\*四\\*\n"


def test_the_same_journal_gives_the_same_bytes(tmp_path: Path) -> None:
    entries = decided().replay.entries
    for folder in ("one", "other"):
        exports.export(entries, tmp_path / folder, list(exports.KINDS))
    for name in exports.KINDS.values():
        one, other = (tmp_path / folder / name for folder in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()


def test_undone_decisions_are_not_exported() -> None:
    session = make_session()
    session.decide("accept")
    session.undo()
    assert rows(session.replay.entries, "sft.jsonl") == []


def test_a_folder_that_cannot_be_written_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("", "utf-8")
    with pytest.raises(DecisionsError, match="cannot be written"):
        exports.export([], tmp_path / "taken", list(exports.KINDS))
