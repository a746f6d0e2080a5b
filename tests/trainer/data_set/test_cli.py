"""`verse data` as it is typed."""

import json
from pathlib import Path

import pytest

from tests.trainer.data_set.original import seed_text, write_lines
from tests.trainer.data_set.poem_pile import make_text
from verse.cli import main

VERSE_TINY = str(Path(__file__).parents[3] / "models" / "verse-tiny")
RIVER = "灯在水上走\n没有回头"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_a_file_of_the_original_to_rows(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": seed_text(f"题{n}", make_text(n))} for n in range(10)]
    write_lines(folder / "old.jsonl", *rows, {"text": "静夜床前"})
    assert main(["data", "import", "old.jsonl"]) == 0
    told = capsys.readouterr()
    assert "old.jsonl: 10 rows of the original project, 1 refused" in told.out
    assert "data/poems.jsonl: 10 new poems; 10 in all." in told.out
    assert told.err == (
        "refused: old.jsonl:11: its text is not a conversation: "
        "it does not begin with <|im_start|>.\n"
    )
    assert main(["data", "split", "data", "--share", "0.1"]) == 0
    assert "9 poems for training, 1 for validation (10%)" in capsys.readouterr().out
    assert {file.name for file in (folder / "data").iterdir()} == {
        "poems.jsonl",
        "split.json",
        "train.jsonl",
        "valid.jsonl",
    }
    assert main(["data", "split", "--seed", "4"]) == 0
    assert "--share and --seed had no effect" in capsys.readouterr().out


def test_nothing_to_import_is_exit_code_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(folder / "old.jsonl", {"text": "静夜"})
    assert main(["data", "import", "old.jsonl", "-o", "poems.jsonl"]) == 2
    told = capsys.readouterr()
    assert told.err.splitlines()[-1] == "Nothing could be imported; poems.jsonl is as it was."
    assert not (folder / "poems.jsonl").exists()


def test_importing_into_older_poems_says_how_to_begin_anew(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(folder / "a.jsonl", {"theme": "河", "text": RIVER})
    write_lines(folder / "b.jsonl", {"theme": "雨", "text": "落"})
    main(["data", "import", "a.jsonl"])
    main(["data", "import", "b.jsonl"])
    assert "1 new poem; 2 in all.\n`--replace` starts" in capsys.readouterr().out
    assert main(["data", "import", "b.jsonl", "--replace"]) == 0
    assert "is now data/poems.jsonl.old" in capsys.readouterr().out


def test_warnings_alone_are_no_failure_and_errors_are(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_lines(
        folder / "poems.jsonl",
        {"theme": "河", "text": RIVER + RIVER[::-1]},
        {"theme": "江", "text": RIVER + RIVER[::-1]},
    )
    command = ["data", "check", "poems.jsonl", "--model", VERSE_TINY]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "Warning: one poem under several themes (1)\n  poems.jsonl:2: " in told
    assert told.endswith("\nErrors: 0, warnings: 1.\n")
    with file.open("a") as stream:
        stream.write("{}\n" * 12)
    assert main(command) == 2
    told = capsys.readouterr().out
    assert "Error: not poems or rows that can be read (12)\n  poems.jsonl:3: " in told
    assert "  and 2 more; `--all` names them." in told
    assert main([*command, "--all"]) == 2
    assert "poems.jsonl:14: " in capsys.readouterr().out


def test_machines_get_all_of_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(folder / "poems.jsonl", {"theme": "河", "text": RIVER}, *["{}"] * 30)
    command = ["data", "check", ".", "--model", VERSE_TINY, "--json"]
    assert main(command) == 2
    assert json.loads(capsys.readouterr().out)["num_warnings"] == 0
    assert main([*command, "--mlx-lm"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["files"] == {"poems.jsonl": 1}
    assert (report["num_errors"], report["num_warnings"]) == (30, 1)
    assert report["problems"][0] == {
        "severity": "warning",
        "kind": "unreached",
        "path": "poems.jsonl",
        "line": 1,
        "message": "mlx_lm.lora would never use this row with a batch size of 2; "
        "`verse train` does",
    }


def test_a_mistake_is_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(folder / "poems.jsonl", {"theme": "河", "text": RIVER})
    for arguments in (
        ["split", "poems.jsonl"],
        ["split"],
        ["check", "data"],
        ["check", "poems.jsonl", "--model", "nowhere"],
        ["import", "nowhere.txt"],
    ):
        assert main(["data", *arguments]) == 2
        told = capsys.readouterr()
        assert len(told.err.splitlines()) == 1
        assert told.out == ""


@pytest.mark.parametrize("command", [["import", "a.jsonl", "-o", "poems.jsonl"], ["split", "."]])
def test_a_full_disk_is_one_sentence_and_nothing_is_lost(
    command: list[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    poems = [{"theme": f"题{n}", "text": make_text(n)} for n in range(3)]
    kept = write_lines(folder / "poems.jsonl", *poems)
    write_lines(folder / "a.jsonl", {"theme": "河", "text": RIVER})
    before = kept.read_bytes()
    monkeypatch.setattr("os.fsync", full)
    assert main(["data", *command]) == 2
    assert "cannot be written: No space left on device." in capsys.readouterr().err
    assert kept.read_bytes() == before
    assert {file.name for file in folder.iterdir()} == {"poems.jsonl", "a.jsonl"}
