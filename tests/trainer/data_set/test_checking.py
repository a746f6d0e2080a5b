"""`verse data check` finds what it should, where it is."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

from tests.core.test_sample_data import POEMS
from tests.trainer.data_set.original import seed_text, write_lines
from tests.trainer.data_set.poem_pile import draft_of, make_text
from verse import jsonl
from verse.poem_files import PoemFileError
from verse.poem_split import PoemSplit, write_split
from verse.records import Poem
from verse_trainer.data_set.checking import check_data
from verse_trainer.data_set.checks import CheckReport, Kind
from verse_trainer.data_set.splitting import split_poems
from verse_trainer.errors import DataSetError

VERSE_TINY = str(Path(__file__).parents[3] / "models" / "verse-tiny")
WATER = "灯在水上走了很久，没有回头，河记得每一盏的名字。"
WIND = "风把门推开一次，又推开一次，屋里的人都在等别的声音。"


def check(
    path: Path, batch_size: int = 1, max_seq_length: int = 2048, *, for_mlx_lm: bool = True
) -> CheckReport:
    return check_data(
        path,
        VERSE_TINY,
        batch_size=batch_size,
        max_seq_length=max_seq_length,
        for_mlx_lm=for_mlx_lm,
    )


def found(report: CheckReport, kind: Kind) -> list[tuple[str, int]]:
    return [(p.path.name, p.line) for p in report.problems if p.kind == kind]


def record(theme: str, text: str) -> dict[str, str]:
    return {"theme": theme, "text": text}


def row(theme: str, text: str, **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": theme}, {"role": "assistant", "content": text}]
    return {"messages": turns, **more}


def test_the_sample_poems_have_nothing_to_mend() -> None:
    report = check(Path(__file__).parents[3] / "data" / "poems.jsonl", batch_size=2)
    assert report.problems == ()
    assert list(report.num_entries.values()) == [124]


def test_each_problem_of_a_file_of_poems_is_found_at_its_line(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "poems.jsonl",
        record("河", WATER),
        record("", "没有题的诗"),
        record("空", "  "),
        record("河", WATER),
        record("江", WATER.replace("，", "\n")),
        record("稿", WATER.replace("很久", "一夜")),
        {"text": seed_text("雨", "落")},
        "{broken",
        "",
        record("长", "水，" * 300),
        record("字", "彳亍在😀"),
    )
    report = check(tmp_path)
    name = "poems.jsonl"
    assert found(report, "empty") == [(name, 2), (name, 3)]
    assert found(report, "duplicate") == [(name, 4)]
    assert found(report, "several_themes") == [(name, 5)]
    assert found(report, "near_duplicate") == [(name, 6)]
    assert found(report, "other_format") == [(name, 7), (name, 8)]
    assert found(report, "too_long") == [(name, 10)]
    assert found(report, "hard_characters") == [(name, 11)]
    assert report.num_errors == 4
    (hard,) = (p for p in report.problems if p.kind == "hard_characters")
    assert "😀" in hard.message
    assert "在" not in hard.message.split("in pieces")[0]


@pytest.mark.parametrize(("max_seq_length", "limit"), [(2048, 512), (20, 20)])
def test_the_shorter_of_context_and_max_seq_length_is_the_limit(
    max_seq_length: int, limit: int, tmp_path: Path
) -> None:
    file = write_lines(tmp_path / "a.jsonl", record("河", WATER))
    report = check(file, max_seq_length=max_seq_length)
    assert report.limit == limit
    assert bool(found(report, "too_long")) == (limit == 20)


def test_any_file_that_can_be_imported_can_be_checked(tmp_path: Path) -> None:
    text = tmp_path / "诗.md"
    text.write_text(f"# 河\n{WATER}\n\n# 江\n{WATER}\n\n# 空\n", "utf-8")
    report = check(text)
    assert found(report, "several_themes") == [("诗.md", 4)]
    assert found(report, "empty") == [("诗.md", 7)]


def test_rows_of_another_format_are_found_in_every_file(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", row("河", WATER), {"text": seed_text("风", WIND)})
    write_lines(tmp_path / "valid.jsonl", {"text": "静夜床前"}, {"keys": [1, 2]})
    report = check(tmp_path)
    assert found(report, "other_format") == [("valid.jsonl", 1), ("valid.jsonl", 2)]
    assert report.num_entries == {
        str(tmp_path / "train.jsonl"): 2,
        str(tmp_path / "valid.jsonl"): 0,
    }


def test_what_is_learned_and_measured_with_is_a_leak(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "train.jsonl", row("河", WATER), row("风", WIND), row("树", make_text(1))
    )
    write_lines(tmp_path / "valid.jsonl", row("门", WIND.replace("，", " ")))
    write_lines(tmp_path / "test.jsonl", row("树", draft_of(make_text(1))))
    report = check(tmp_path)
    assert found(report, "leak") == [("train.jsonl", 2), ("train.jsonl", 3)]
    assert report.num_errors == 2


def test_the_frozen_split_is_held_against_the_rows_to_learn(tmp_path: Path) -> None:
    poems = [Poem(theme="河", text=WATER), Poem(theme="风", text=WIND)]
    jsonl.rewrite(tmp_path / "poems.jsonl", poems)
    write_split(tmp_path / "split.json", PoemSplit(valid=(poems[0].id,), share=0.5, seed=0))
    write_lines(tmp_path / "train.jsonl", row("河", WATER), row("风", WIND))
    assert found(check(tmp_path), "leak") == [("train.jsonl", 1)]


def test_after_a_split_there_is_nothing_to_mend_until_poems_come(tmp_path: Path) -> None:
    samples = POEMS[:20]
    jsonl.rewrite(tmp_path / "poems.jsonl", samples)
    split = split_poems(tmp_path / "poems.jsonl", 0.12, 0, None)
    assert check(tmp_path).problems == ()
    draft = split.parts.valid[0].text.replace("，", "") + "啊"
    jsonl.append(tmp_path / "poems.jsonl", Poem(theme="稿", text=draft), POEMS[30])
    report = check(tmp_path)
    assert found(report, "held_back") == [("poems.jsonl", 21)]
    assert found(report, "unsplit") == [("poems.jsonl", 22)]
    assert report.num_errors == 0


@pytest.mark.parametrize(
    ("num_keys", "batch_size"),
    [
        ([1] * 10, 4),
        ([1] * 8, 4),
        ([1] * 3, 4),
        ([2, 1, 1, 2, 1, 3, 1], 2),
        ([3, 1, 2, 1, 1], 3),
    ],
)
def test_the_rows_that_mlx_lm_never_uses_are_those_it_never_uses(
    num_keys: list[int], batch_size: int, tmp_path: Path
) -> None:
    from mlx_lm.tuner.datasets import CacheDataset, ChatDataset
    from mlx_lm.tuner.trainer import iterate_batches

    names = ("source", "origin")
    lines = [
        row(f"题{n}", make_text(n), **dict.fromkeys(names[: keys - 1], "poet"))
        for n, keys in enumerate(num_keys)
    ]
    write_lines(tmp_path / "train.jsonl", *lines)

    used: set[int] = set()

    class Counting(ChatDataset):
        def process(self, d: Any) -> tuple[list[int], int]:
            used.add(lines.index(d))
            return [1, 2, 3], 0

    data = Counting(lines, tokenizer=cast(Any, None))
    if len(lines) >= batch_size:
        for _ in iterate_batches(CacheDataset(data), batch_size, 2048):
            pass
    never = sorted(set(range(len(lines))) - used)
    reported = [line - 1 for _, line in found(check(tmp_path, batch_size), "unreached")]
    assert reported == never
    assert found(check(tmp_path, batch_size, for_mlx_lm=False), "unreached") == []


def test_an_empty_file_and_an_empty_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match=r"has no poems\.jsonl and no train\.jsonl"):
        check(tmp_path)
    (tmp_path / "poems.jsonl").touch()
    report = check(tmp_path)
    assert found(report, "empty") == [("poems.jsonl", 1)]
    with pytest.raises(PoemFileError, match=r"a\.jsonl cannot be read"):
        check(tmp_path / "a.jsonl")


def test_poems_in_a_list_are_placed_by_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    rows = [record("河", WATER), record("江", WATER)]
    file.write_text(json.dumps(rows, ensure_ascii=False, indent=1), "utf-8")
    assert found(check(file), "several_themes") == [("a.json", 6)]
