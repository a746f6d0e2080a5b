"""What other tools say of a poem is obeyed by all that reads poems to learn from."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.data_set.original import RIVER, listed, seed_text, write_lines
from verse.cli import main
from verse.verdicts import LeftOutError
from verse_trainer.data_set.checking import check_data
from verse_trainer.data_set.importing import import_poems
from verse_trainer.data_set.rows import read_rows
from verse_trainer.data_set.splitting import split_poems
from verse_trainer.errors import DataSetError

VERSE_TINY = str(Path(__file__).parents[3] / "models" / "verse-tiny")
KEPT = {"theme": "雪", "text": RIVER}


def chat(text: str, **more: Any) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "河"},
        {"role": "assistant", "content": text, **more},
    ]


REJECTED: dict[str, dict[str, Any]] = {
    "Prodigy": {"title": "河", "text": "水", "_input_hash": 1, "_task_hash": 2, "answer": "reject"},
    "KTO messages": {"messages": chat("水"), "label": False},
    "KTO pairs": {"prompt": "河", "completion": "水", "label": False},
    "KTO of LLaMA-Factory": {"messages": chat("水"), "kto_tag": False},
    "Argilla": {"theme": "河", "text": "水", "status": "discarded"},
    "Argilla responses": {"theme": "河", "text": "水", "responses": [{"status": "discarded"}]},
    "Label Studio": {
        "title": "河",
        "text": "水",
        "annotations": [{"result": [{"value": {"choices": ["reject"]}}], "was_cancelled": False}],
    },
    "flags": {"theme": "河", "text": "水", "accepted": False, "deleted": True},
    "not accepted": {"theme": "河", "text": "水", "accepted": False},
    "OpenAI": {"messages": chat("水", weight=0)},
    "a weight of the row": {"messages": chat("水"), "weight": 0},
    "ChatML": {"text": seed_text("河", "水"), "label": False},
}
UNDECIDED: dict[str, dict[str, Any]] = {
    "Prodigy": {"title": "河", "text": "水", "_task_hash": 2, "answer": "ignore"},
    "KTO": {"prompt": "河", "completion": "水", "label": None},
    "Argilla": {"theme": "河", "text": "水", "status": "draft"},
    "Label Studio": {"title": "河", "text": "水", "annotations": [{"was_cancelled": True}]},
    "edited, not accepted": listed(1, "水", edited=True),
}


@pytest.mark.parametrize("tool", REJECTED)
def test_what_was_rejected_elsewhere_is_left_out_and_counted(tool: str, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "in.jsonl", KEPT, *[REJECTED[tool]] * 3)
    report = import_poems([file], tmp_path / "poems.jsonl")
    assert (report.num_new, report.refused) == (1, ())
    assert report.sentences == (f"{file}: 1 theme and poem record, 3 rejected and left out",)


@pytest.mark.parametrize("tool", UNDECIDED)
def test_what_is_undecided_elsewhere_is_left_out_and_counted(tool: str, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "in.jsonl", KEPT, UNDECIDED[tool])
    report = import_poems([file], tmp_path / "poems.jsonl")
    assert (report.num_new, report.refused) == (1, ())
    assert report.sentences == (f"{file}: 1 theme and poem record, 1 not decided on and left out",)


def task(number: int, *annotations: dict[str, Any], **data: Any) -> dict[str, Any]:
    """As Label Studio exports it in JSON."""
    cancelled = sum(bool(one["was_cancelled"]) for one in annotations)
    return {
        "id": number,
        "data": {"title": f"题{number}", "text": RIVER, **data},
        "annotations": list(annotations),
        "predictions": [],
        "total_annotations": len(annotations) - cancelled,
        "cancelled_annotations": cancelled,
        "meta": {},
    }


def annotation(choice: str | None) -> dict[str, Any]:
    value = {"from_name": "v", "type": "choices", "value": {"choices": [choice]}}
    return {"result": [] if choice is None else [value], "was_cancelled": choice is None}


def record(number: int, status: str, answer: str | None, **fields: Any) -> dict[str, Any]:
    """As Argilla exports it in JSON."""
    answers = {} if answer is None else {"kept": [{"value": answer, "user_id": "u"}]}
    return {
        "id": str(number),
        "status": status,
        "fields": {"theme": f"题{number}", "text": RIVER, **fields},
        "metadata": {},
        "suggestions": {},
        "responses": answers,
        "vectors": {},
    }


def test_whole_exports_of_label_studio_and_argilla_are_read(tmp_path: Path) -> None:
    tasks = [
        task(1, annotation("accept")),
        task(2, annotation("Reject")),
        task(3, annotation(None)),
        task(4),
        task(5, annotation("accept"), accepted=False),
    ]
    records = [
        record(6, "completed", "accept"),
        record(7, "completed", "reject"),
        record(8, "pending", None),
        record(9, "completed", None, deleted=True),
    ]
    for name, rows in (("tasks.json", tasks), ("records.json", records)):
        (tmp_path / name).write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    report = import_poems(
        [tmp_path / "tasks.json", tmp_path / "records.json"], tmp_path / "p.jsonl"
    )
    assert (report.refused, report.doubts) == ((), ())
    assert report.sentences == (
        f"{tmp_path / 'tasks.json'}: 2 theme and poem records, 2 rejected and left out, "
        "1 not decided on and left out",
        f"{tmp_path / 'records.json'}: 1 theme and poem record, 2 rejected and left out, "
        "1 not decided on and left out",
    )


def test_what_was_accepted_elsewhere_is_taken(tmp_path: Path) -> None:
    rows = [
        {"title": "河", "text": "一", "answer": "accept", "_task_hash": 1},
        {"messages": chat("二"), "label": True},
        {"theme": "河", "text": "三", "status": "submitted"},
        {"messages": chat("四", weight=1)},
        listed(1, "五", accepted=True, edited=True),
    ]
    file = write_lines(tmp_path / "in.jsonl", *rows)
    report = import_poems([file], tmp_path / "poems.jsonl")
    assert (report.num_new, report.refused, report.doubts) == (5, (), ())


def test_a_verdict_that_is_not_plain_is_refused_by_line(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "in.jsonl", KEPT, {**KEPT, "label": 0})
    report = import_poems([file], tmp_path / "poems.jsonl")
    assert report.num_new == 1
    assert [str(refused) for refused in report.refused] == [
        f"{file}:2: label: 0 may be a verdict or a class; write true or false, or drop it."
    ]


@pytest.mark.parametrize(
    ("matter", "sentence"),
    [
        ("status: rejected", "1 rejected and left out"),
        ("accepted: false", "1 rejected and left out"),
        ('answer: "ignore"', "1 not decided on and left out"),
        ("accepted: perhaps", "1 refused"),
        ("quality: bad", "1 poem in Markdown named after its file"),
        ("tags: bad, 河", "1 poem in Markdown named after its file"),
    ],
)
def test_the_front_matter_of_a_text_is_obeyed_too(
    matter: str, sentence: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.md"
    file.write_text(f"---\nauthor: 某某\n{matter}\n---\n{RIVER}\n", "utf-8")
    report = import_poems([file], tmp_path / "poems.jsonl")
    assert report.sentences == (f"{file}: {sentence}",)
    assert len(report.doubts) == (matter == "quality: bad")


def test_an_unknown_key_that_sounds_like_a_verdict_is_reported_once_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"theme": f"题{n}", "text": RIVER, "quality": q} for n, q in enumerate([None, "bad", 2])
    ]
    write_lines(tmp_path / "a.jsonl", *rows)
    write_lines(tmp_path / "b.jsonl", {"theme": "通过", "text": RIVER, "审核": "拒绝"})
    assert main(["data", "import", "a.jsonl", "b.jsonl"]) == 0
    told = capsys.readouterr()
    assert "4 new poems" in told.out
    assert told.err.splitlines() == [
        "warning: a.jsonl:2: quality: bad reads like a verdict, which Verse does not know; "
        "the rows of this file were taken whatever it says.",
        "warning: b.jsonl:1: 审核: 拒绝 reads like a verdict, which Verse does not know; "
        "the rows of this file were taken whatever it says.",
    ]


def test_a_file_of_poems_with_a_rejected_one_is_not_split(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "poems.jsonl", KEPT, {**KEPT, "accepted": False})
    with pytest.raises(LeftOutError, match=r"poems\.jsonl:2: it was rejected \(accepted: false\)"):
        split_poems(file, 0.5, 0, None)
    assert not (tmp_path / "train.jsonl").exists()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": chat("水"), "label": False}, "it was rejected (label: false)"),
        ({"prompt": "河", "completion": "水", "label": False}, "it was rejected (label: false)"),
        ({"messages": chat("水", weight=0)}, "it was rejected (weight: 0)"),
        ({"messages": chat("水"), "answer": "ignore"}, "it was not decided on (answer: ignore)"),
        ({"text": seed_text("河", "水"), "label": 0}, "label: 0 may be a verdict or a class"),
    ],
)
def test_training_reads_no_row_that_is_not_to_be_learned(
    row: dict[str, Any], said: str, tmp_path: Path
) -> None:
    file = write_lines(tmp_path / "train.jsonl", {"messages": chat("水")}, row)
    with pytest.raises(DataSetError) as caught:
        read_rows(file)
    assert str(caught.value).startswith(f"{file}:2: this row is not learned: {said}")


def test_training_reads_rows_that_were_accepted(tmp_path: Path) -> None:
    rows = [{"messages": chat("水"), "label": True}, {"messages": chat("冰", weight=1)}]
    assert len(read_rows(write_lines(tmp_path / "train.jsonl", *rows))) == 2


def test_the_check_names_rows_that_are_not_to_be_learned(tmp_path: Path) -> None:
    write_lines(tmp_path / "poems.jsonl", KEPT, {**KEPT, "text": "水", "answer": "reject"})
    write_lines(tmp_path / "train.jsonl", {"messages": chat("水"), "label": False})
    report = check_data(tmp_path, VERSE_TINY, batch_size=1, max_seq_length=512)
    problems = [(p.path.name, p.line, p.is_error) for p in report.problems if p.kind == "rejected"]
    assert problems == [("poems.jsonl", 2, True), ("train.jsonl", 1, True)]


def test_the_check_names_what_an_import_would_leave_out(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "in.jsonl", KEPT, REJECTED["Prodigy"], UNDECIDED["Prodigy"])
    report = check_data(file, VERSE_TINY, batch_size=1, max_seq_length=512)
    problems = [(p.line, p.message, p.is_error) for p in report.problems if p.kind == "left_out"]
    assert problems == [
        (2, "`verse data import` leaves this out: it was rejected", False),
        (3, "`verse data import` leaves this out: it was not decided on", False),
    ]


@pytest.mark.parametrize("name", ["poems.jsonl", "train.jsonl", "other.json"])
def test_the_check_warns_once_of_a_key_that_sounds_like_a_verdict(
    name: str, tmp_path: Path
) -> None:
    row = {"messages": chat(RIVER)} if name == "train.jsonl" else KEPT
    rows = [{**row, "quality": "good"}, {**row, "quality": "bad", "keep": False}]
    file = write_lines(tmp_path / name, *rows)
    if name == "other.json":
        file.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    report = check_data(file, VERSE_TINY, batch_size=1, max_seq_length=512)
    problems = [p for p in report.problems if p.kind == "unknown_verdict"]
    assert [(p.is_error, p.message.split(":")[0]) for p in problems] == [
        (False, "quality"),
        (False, "keep"),
    ]
