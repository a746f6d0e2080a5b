import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.trainer.data_set.original import RIVER, generated, listed, seed_text, write_lines
from verse import jsonl
from verse.poem_files import PoemFileError
from verse.records import Poem, content_id
from verse_trainer.data_set.importing import SAMPLE, ImportReport, import_poems, sample_key

POEM = msgspec.json.Decoder(Poem)
ONE: dict[str, dict[str, Any]] = {
    "theme and text": {"theme": "河", "text": RIVER},
    "title and poem": {"title": "河", "poem": RIVER, "author": "某人"},
    "title and body": {"title": "河", "body": RIVER},
    "theme and poem": {"theme": "河", "poem": RIVER},
    "a title above its poem": {"text": f"河\n<|end|>\n{RIVER}"},
    "messages": {
        "messages": [
            {"role": "user", "content": "河"},
            {"role": "assistant", "content": RIVER},
        ]
    },
    "prompt and completion": {"prompt": "河", "completion": RIVER},
    "the original's row": {"text": seed_text("河", RIVER)},
    "ChatML": {
        "text": f"<|im_start|>user\n河<|im_end|>\n<|im_start|>assistant\n{RIVER}<|im_end|>\n"
    },
}


def run(folder: Path, *rows: object, name: str = "in.jsonl") -> tuple[ImportReport, list[Poem]]:
    source = write_lines(folder / name, *rows)
    return imported(folder, source)


def imported(folder: Path, *sources: Path) -> tuple[ImportReport, list[Poem]]:
    output = folder / "out" / "poems.jsonl"
    report = import_poems(sources, output)
    return report, jsonl.read(output, POEM) if output.exists() else []


@pytest.mark.parametrize("shape", ONE)
def test_every_shape_becomes_the_same_poem(shape: str, tmp_path: Path) -> None:
    _, (poem,) = run(tmp_path, ONE[shape])
    assert (poem.theme, poem.text, poem.origin) == ("河", RIVER, "poet")
    assert poem.id == content_id("河", RIVER)
    assert poem.source == f"{tmp_path / 'in.jsonl'}:1"


def test_all_shapes_may_stand_in_one_file_whatever_its_name(tmp_path: Path) -> None:
    report, poems = run(tmp_path, *ONE.values(), name="诗.txt")
    assert report.num_read == len(ONE)
    assert len(poems) == report.num_new == 1


def test_a_list_of_json_is_read_with_the_line_of_each_row(tmp_path: Path) -> None:
    file = tmp_path / "poems.json"
    rows = [{"title": "河", "body": "水"}, {"title": "雨", "body": "落"}, {"title": "雪"}]
    file.write_text(json.dumps(rows, ensure_ascii=False, indent=2), "utf-8")
    report, poems = imported(tmp_path, file)
    assert [poem.source for poem in poems] == [f"{file}:2", f"{file}:6"]
    assert [refused.line for refused in report.refused] == [10]


def test_the_originals_list_gives_what_the_poet_kept(tmp_path: Path) -> None:
    file = tmp_path / "list.json"
    rows = [
        listed(0, "收下的", accepted=True),
        listed(1, "改过的", accepted=True, edited=True),
        listed(2, "只改过的", edited=True),
        listed(3, "删掉的", accepted=True, deleted=True),
        listed(4, "没看的"),
    ]
    file.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    report, poems = imported(tmp_path, file)
    assert [(poem.theme, poem.text, poem.origin) for poem in poems] == [
        ("题0", "收下的", "accepted"),
        ("题1", "改过的", "edited"),
    ]
    assert report.sentences == (
        f"{file}: 2 poems of the original project's list, 2 not decided on and left out, "
        "1 rejected and left out",
    )


def test_the_originals_poems_by_theme_are_a_models(tmp_path: Path) -> None:
    file = tmp_path / "best.json"
    by_theme = {"河": [generated("河", "水")], "雨": [generated("雨", "落"), generated("雨", "下")]}
    file.write_text(json.dumps(by_theme, ensure_ascii=False, indent=1), "utf-8")
    report, poems = imported(tmp_path, file)
    assert (report.sentences, poems) == ((f"{file}: 3 unreviewed and left out",), [])


REFUSED: dict[str, tuple[object, str]] = {
    "raw text": ({"text": "静夜床前"}, "its text is not a conversation"),
    "a title without a poem": ({"text": "静夜\n<|end|>\n"}, "not a title, a line <|end|>"),
    "no theme": ({"poem": "水"}, "no theme or title"),
    "no poem": ({"title": "河"}, "it has no poem: its keys are title"),
    "an empty theme": ({"theme": " ", "text": "水"}, "its theme is empty"),
    "an empty poem": ({"theme": "河", "text": " \n"}, "its poem is empty"),
    "two poems": ({"theme": "河", "text": "水", "body": "雨"}, "several poems"),
    "a longer conversation": (
        {"messages": ONE["messages"]["messages"] * 2},
        "longer conversation",
    ),
    "a decision": ({"entry": "decision", "action": "accept"}, "it is a decision"),
    "a pair": ({"prompt": "河", "chosen": "水", "rejected": "雨"}, "preference pair"),
    "a number": ({"theme": "河", "text": 3}, "Expected `str"),
    "a list": (["河", "水"], "Expected `object`, got `array`"),
    "half a row": ('{"theme": "河", "te', "truncated"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_row_that_is_no_poem_is_refused_by_line_and_the_rest_imported(
    case: str, tmp_path: Path
) -> None:
    row, problem = REFUSED[case]
    report, poems = run(tmp_path, ONE["title and body"], "", row, {"title": "雨", "body": "落"})
    assert [poem.theme for poem in poems] == ["河", "雨"]
    (refused,) = report.refused
    assert str(refused).startswith(f"{tmp_path / 'in.jsonl'}:3: ")
    assert problem in str(refused)
    assert report.sentences[0].endswith(", 1 refused")


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        (b'[\n {"title": "a",\n "body"]', 3, "the JSON breaks off here"),
        ("水\n".encode() + "河水".encode("gbk"), 2, "not UTF-8"),
        (b"PK\0\0", 1, "not a text file"),
        (b" \n", 1, "empty"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_and_nothing_written(
    content: bytes, line: int, problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "in"
    file.write_bytes(content)
    report, poems = imported(tmp_path, file)
    (refused,) = report.refused
    assert refused.line == line
    assert problem in refused.problem
    assert (report.num_read, poems) == (0, [])


def test_a_folder_is_read_by_the_files_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "poems"
    (folder / "sub" / ".hidden").mkdir(parents=True)
    (folder / "河.txt").write_text("\ufeff水\r\n  走\r\n", "utf-8")
    (folder / "sub" / "雨.md").write_text("# 雨\n落", "utf-8")
    (folder / "sub" / ".hidden" / "x.txt").write_text("不读", "utf-8")
    (folder / "photo.png").write_bytes(b"\x89PNG")
    _, poems = imported(tmp_path, folder)
    assert {(poem.theme, poem.text) for poem in poems} == {("河", "水\n  走"), ("雨", "落")}


def test_a_path_that_is_not_there_stops_before_anything_is_written(tmp_path: Path) -> None:
    good = write_lines(tmp_path / "a.jsonl", ONE["title and body"])
    with pytest.raises(PoemFileError, match=r"b\.txt cannot be read: No such file"):
        imported(tmp_path, good, tmp_path / "b.txt")
    assert not (tmp_path / "out").exists()


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=50,
)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_importing_again_adds_nothing_and_loses_nothing(
    tmp_path: Path, pairs: list[tuple[str, str]]
) -> None:
    (tmp_path / "out" / "poems.jsonl").unlink(missing_ok=True)
    rows = [{"theme": theme, "text": text} for theme, text in pairs]
    first, poems = run(tmp_path, *rows)
    again, same = run(tmp_path, *rows)
    assert (first.refused, again.num_new) == ((), 0)
    assert same == poems
    # Its own output is a source like any other.
    own, still = imported(tmp_path, tmp_path / "out" / "poems.jsonl")
    assert (own.num_new, own.num_read) == (0, len(poems))
    assert still == poems


def test_what_is_there_is_kept_unless_it_is_to_be_set_aside(tmp_path: Path) -> None:
    output = tmp_path / "poems.jsonl"
    first = write_lines(tmp_path / "a.jsonl", {"theme": "河", "text": "水"})
    second = write_lines(tmp_path / "b.jsonl", {"theme": "雨", "text": "落"})
    import_poems([first], output)
    import_poems([second], output)
    assert [poem.theme for poem in jsonl.read(output, POEM)] == ["河", "雨"]
    for name in ("poems.jsonl.old", "poems.jsonl.old-2"):
        report = import_poems([second], output, replace=True)
        assert report.kept_aside == tmp_path / name
        assert [poem.theme for poem in jsonl.read(output, POEM)] == ["雨"]
    kept = jsonl.read(tmp_path / "poems.jsonl.old", POEM)
    assert [poem.theme for poem in kept] == ["河", "雨"]


def test_an_import_of_nothing_replaces_nothing(tmp_path: Path) -> None:
    output = write_lines(tmp_path / "poems.jsonl", {"theme": "河", "text": "水"})
    empty = write_lines(tmp_path / "empty.txt")
    assert import_poems([empty], output, replace=True).num_read == 0
    assert output.exists()


def test_a_line_that_a_kill_cut_off_is_set_aside_before_poems_are_added(tmp_path: Path) -> None:
    output = write_lines(tmp_path / "poems.jsonl", {"theme": "河", "text": "水"})
    output.write_bytes(output.read_bytes() + b'{"theme": "x", "te')
    source = write_lines(tmp_path / "a.jsonl", {"theme": "雨", "text": "落"})
    import_poems([source], output)
    assert [poem.theme for poem in jsonl.read(output, POEM)] == ["河", "雨"]
    assert (tmp_path / "poems.jsonl.torn").exists()


def test_an_output_that_holds_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    output = write_lines(tmp_path / "train.jsonl", {"text": seed_text("河", "水")})
    before = output.read_bytes()
    source = write_lines(tmp_path / "a.jsonl", {"theme": "雨", "text": "落"})
    with pytest.raises(jsonl.JsonlError, match=r"train\.jsonl:1: "):
        import_poems([source], output)
    assert output.read_bytes() == before


SAMPLE_FILE = Path(__file__).parents[3] / "data" / "poems.jsonl"


def test_the_samples_key_is_that_of_the_poems_that_verse_ships_with() -> None:
    assert sample_key(jsonl.read(SAMPLE_FILE, POEM)) == SAMPLE


def test_a_project_that_has_only_the_sample_begins_a_fresh_collection(tmp_path: Path) -> None:
    output = tmp_path / "poems.jsonl"
    output.write_bytes(SAMPLE_FILE.read_bytes())
    (tmp_path / "split.json").write_text('{"valid": [], "share": 0.1, "seed": 0}', "utf-8")
    source = write_lines(tmp_path / "mine.jsonl", {"theme": "渡口", "text": "缆绳\n没有人弹它"})
    report = import_poems([source], output)
    assert [poem.theme for poem in jsonl.read(output, POEM)] == ["渡口"]
    assert (report.was_sample, report.num_after) == (True, 1)
    assert report.kept_aside == tmp_path / "poems.jsonl.old"
    assert (tmp_path / "poems.jsonl.old").read_bytes() == SAMPLE_FILE.read_bytes()
    assert (tmp_path / "split.json.old").exists()
    assert not (tmp_path / "split.json").exists()


def test_the_sample_with_a_poem_of_ones_own_is_kept_and_added_to(tmp_path: Path) -> None:
    output = tmp_path / "poems.jsonl"
    own = json.dumps({"theme": "雪", "text": "落"}, ensure_ascii=False) + "\n"
    output.write_bytes(SAMPLE_FILE.read_bytes() + own.encode())
    report = import_poems(
        [write_lines(tmp_path / "a.jsonl", {"theme": "雨", "text": "下"})], output
    )
    assert (report.num_before, report.num_after, report.was_sample) == (125, 126, False)


def test_importing_the_sample_again_leaves_it_where_it_is(tmp_path: Path) -> None:
    output = tmp_path / "poems.jsonl"
    output.write_bytes(SAMPLE_FILE.read_bytes())
    assert import_poems([SAMPLE_FILE], output).num_new == 0
    assert output.read_bytes() == SAMPLE_FILE.read_bytes()
