import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.clients.curate.conftest import write_candidates
from verse_clients.decisions import SourceError
from verse_clients.decisions.sources import past_decisions, read_items

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def write(path: Path, content: object) -> Path:
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    path.write_text(text, "utf-8")
    return path


def test_candidates_of_verse_generate_are_read_in_order(tmp_path: Path) -> None:
    items = read_items([write_candidates(tmp_path / "poems.jsonl", 3, mixed=True)])
    assert [item.number for item in items] == [1, 2, 3]
    assert items[0].candidate.text.startswith("第0首\n")
    assert items[1].source == "hushi@80"


def test_files_are_numbered_on(tmp_path: Path) -> None:
    one = write_candidates(tmp_path / "one.jsonl", 2)
    items = read_items([one, one])
    assert [item.number for item in items] == [1, 2, 3, 4]


ROW = {"theme": "雨", "text": "雨落", "adapter": "hushi", "checkpoint": 60}


@pytest.mark.parametrize(
    "content",
    [
        [ROW | {"score": 3.5, "rank": 2, "disagreement": 0.4}],
        [{"candidate": ROW, "score": 3.5, "rank": 2, "disagreement": 0.4, "new_field": 1}],
        {"judges": ["a"], "poems": [{"candidate": ROW, "score": 3.5, "rank": 2,
                                     "disagreement": 0.4}]},
        json.dumps(ROW | {"score": 3.5, "rank": 2, "disagreement": 0.4}, ensure_ascii=False) + "\n",
    ],
    ids=["flat list", "nested list", "object", "lines"],
)  # fmt: skip
def test_scores_of_verse_judge_are_read(tmp_path: Path, content: object) -> None:
    [item] = read_items([write(tmp_path / "ranked.json", content)])
    assert (item.score, item.rank, item.disagreement) == (3.5, 2, 0.4)
    assert item.candidate.text == "雨落"
    assert item.source == "hushi@60"


def test_the_poets_own_poems_are_read(tmp_path: Path) -> None:
    poem = {"theme": "雨", "text": "雨\n落", "source": "book.txt:3", "origin": "poet"}
    [item] = read_items([write(tmp_path / "poems.jsonl", json.dumps(poem, ensure_ascii=False))])
    assert item.candidate.text == "雨\n落"


SEED = {
    "id": 7, "adaptor": "lora2", "outer_idx": 0, "inner_idx": 1, "image": "河",
    "response": "河不回头", "accepted": False, "edited": False, "deleted": False,
}  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [[SEED], [[["河", "河不回头"]]], {"河": ["河不回头"]}],
    ids=["flat", "nested", "by theme"],
)
def test_lists_of_the_original_project_are_read(tmp_path: Path, content: object) -> None:
    [item] = read_items([write(tmp_path / "overall_poems.json", content)])
    assert (item.candidate.theme, item.candidate.text) == ("河", "河不回头")


def test_flags_of_the_original_list_become_decisions(tmp_path: Path) -> None:
    flags: list[dict[str, bool]] = [
        {"accepted": True}, {"accepted": True, "edited": True}, {"deleted": True}, {},
        {"edited": True},
    ]  # fmt: skip
    content = [SEED | {"inner_idx": place} | flag for place, flag in enumerate(flags)]
    items = read_items([write(tmp_path / "list.json", content)])
    decisions = past_decisions(items, NOW)
    assert [decision.action for decision in decisions] == ["accept", "edit", "reject"]


def test_verdicts_of_other_tools_become_decisions(tmp_path: Path) -> None:
    rows = [
        ROW | {"answer": "accept", "_task_hash": 1}, ROW | {"answer": "reject"},
        ROW | {"answer": "ignore"}, ROW | {"label": False}, ROW | {"status": "discarded"},
        ROW | {"accepted": True, "edited": True}, ROW | {"accepted": False, "deleted": False},
        ROW,
    ]  # fmt: skip
    items = read_items([write(tmp_path / "rows.json", rows)])
    assert [item.past for item in items] == [
        "accept", "reject", None, "reject", "reject", "edit", None, None,
    ]  # fmt: skip


def test_a_verdict_that_is_not_plain_is_told_in_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.json", [ROW, ROW | {"label": 1}])
    with pytest.raises(SourceError, match=r"rows\.json:1: poem 2: label: 1 may be a verdict"):
        read_items([path])


def test_a_half_written_last_line_is_passed_over(tmp_path: Path) -> None:
    path = write_candidates(tmp_path / "poems.jsonl", 3)
    path.write_bytes(path.read_bytes()[:-9])
    assert len(read_items([path])) == 2


def test_poems_without_text_are_passed_over_and_keep_the_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "poems.json", [ROW, ROW | {"text": " \n"}, ROW | {"theme": "河"}])
    assert [item.number for item in read_items([path])] == [1, 3]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("  \n\n", "is empty"),
        ('{"a": 1}\n{"b": 2}\n', "poem 1"),
        ('{"theme": "雨", "text": "雨"}\nnonsense\n{"theme": "雨", "text": "雨"}\n', ":2: poem 2"),
        ("[1, 2]", "poem 1"),
        ("[]", "holds no poem"),
        ("[42]", "poem 1"),
        ([ROW | {"text": ""}], "holds no poem"),
        ([ROW | {"score": "high"}], "score"),
    ],
)
def test_what_is_no_poems_is_told_in_one_sentence(
    tmp_path: Path, content: object, said: str
) -> None:
    path = write(tmp_path / "other.json", content)
    with pytest.raises(SourceError) as caught:
        read_items([path])
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_told_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff\xfe")
    with pytest.raises(SourceError, match=r"picture\.png:1: poem 1: this is not a text file"):
        read_items([path])


def test_a_missing_file_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        read_items([tmp_path / "missing.jsonl"])


def test_windows_line_ends_become_plain_and_the_id_stays(tmp_path: Path) -> None:
    plain, windows = (
        read_items([write(tmp_path / "poems.json", [ROW | {"text": text}])])[0]
        for text in ("雨\n落", "雨\r\n落")
    )
    assert windows.candidate.text == "雨\n落"
    assert windows.id == plain.id
