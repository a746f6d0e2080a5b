"""`verse refine start`: once, twice, from any folder, and with names that cannot be."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from verse.cli import main
from verse_clients.refine.plan import read_plan
from verse_clients.refine.record import RoundRecord, StepRun, write_record

Capture = pytest.CaptureFixture[str]
START = ["refine", "start", "--adapters", "xuzhimo"]


@pytest.fixture(autouse=True)
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A poet's folder, and no other one above it."""
    monkeypatch.delenv("VERSE_HOME", raising=False)
    for name in ("data", "adapters"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answer(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)

    def prompt(text: str, default: str) -> str:
        assert text.startswith("rounds/01 is planned and not begun: ")
        assert default == "stop"
        return word

    monkeypatch.setattr("typer.prompt", prompt)


@pytest.mark.parametrize(
    ("key", "flags", "judges"),
    [
        ("", [], ["likelihood"]),
        ("sk-1", [], []),
        ("", ["--judge", "none"], []),
        ("sk-1", ["--judge", "gpt-5"], ["gpt-5"]),
    ],
)
def test_without_a_key_the_server_itself_ranks_the_poems(
    key: str, flags: list[str], judges: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    assert main([*START, *flags]) == 0
    assert [judge.model for judge in read_plan(Path("rounds/01")).judges] == judges


def test_a_second_start_is_one_sentence_where_nobody_can_be_asked(capsys: Capture) -> None:
    assert main(START) == 0
    capsys.readouterr()
    assert main(START) == 2
    assert capsys.readouterr() == (
        "",
        "rounds/01 is planned and not begun; `verse refine` begins it, --replace plans it anew, "
        "--another starts one more.\n",
    )
    assert [path.name for path in Path("rounds").iterdir()] == ["01"]


@pytest.mark.parametrize("how", ["flag", "answer"])
def test_a_round_that_was_not_begun_can_be_planned_anew(
    how: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert main(START) == 0
    before = Path("rounds/01/plan.toml").read_bytes()
    flags = ["--replace"] if how == "flag" else []
    answer(monkeypatch, "replace")
    assert main(["refine", "start", "--adapters", "hushi@85", *flags]) == 0
    assert "The earlier plan is kept as rounds/01/plan.toml.1." in capsys.readouterr().out
    plan = read_plan(Path("rounds/01"))
    assert (plan.adapters, plan.new_adapter) == (("hushi@85",), "adapters/hushi-r01")
    assert Path("rounds/01/plan.toml.1").read_bytes() == before
    assert not Path("rounds/02").exists()


@pytest.mark.parametrize("how", ["flag", "answer"])
def test_one_more_can_be_started_beside_it(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(START) == 0
    answer(monkeypatch, "another")
    assert main([*START, *(["--another"] if how == "flag" else [])]) == 0
    assert read_plan(Path("rounds/02")).new_adapter == "adapters/xuzhimo-r02"


def test_who_answers_anything_else_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert main(START) == 0
    answer(monkeypatch, "stop")
    assert main(START) == 2
    assert capsys.readouterr().err == "Nothing was started; `verse refine` begins rounds/01.\n"


@pytest.mark.parametrize("sign", ["a step ran", "a poem was decided on"])
def test_a_round_that_has_begun_is_followed_by_the_next_one(sign: str) -> None:
    assert main(START) == 0
    if sign == "a step ran":
        ran = StepRun(step="generate", commands=(), inputs={}, started=datetime.now(UTC))
        write_record(Path("rounds/01"), RoundRecord(runs=(ran,)))
    else:
        Path("rounds/01/decisions.jsonl").write_text("")
    assert main(START) == 0
    assert Path("rounds/02/plan.toml").exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--adapters", "../x"], "The plan: '../x' is not a valid adapter name: "),
        (["--adapters", "xuzhimo,../x@3"], "The plan: '../x' is not a valid adapter name: "),
        (["--adapters", "xuzhimo@"], "The plan: 'xuzhimo@' is not NAME, NAME@CHECKPOINT or"),
        (["--adapters", "xuzhimo", "--name", "../x"], "The plan: '../x' is not a valid adapter"),
        (["--adapters", "xuzhimo", "--name", "base"], "The plan: 'base' means the base model; "),
    ],
)
def test_what_cannot_be_a_name_is_refused_as_other_commands_refuse_it(
    flags: list[str], sentence: str, capsys: Capture
) -> None:
    assert main(["refine", "start", *flags]) == 2
    assert capsys.readouterr().err.startswith(sentence)
    assert not Path("rounds").exists()


def test_rounds_are_kept_and_found_beside_the_data_from_any_folder_below(
    workshop: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    below = workshop / "2026" / "spring"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    Path("mine.txt").write_text("河\n", "utf-8")
    assert main([*START, "--themes", "mine.txt"]) == 0
    assert capsys.readouterr().out.startswith(f"In {workshop}:\nrounds/01/plan.toml is the plan")
    plan = read_plan(workshop / "rounds" / "01")
    assert (plan.themes, plan.poems) == (str(below / "mine.txt"), "data/poems.jsonl")
    monkeypatch.chdir(below)
    assert main(["refine", "status"]) == 0
    assert capsys.readouterr().out.startswith(f"In {workshop}:\nrounds/01\n")
    monkeypatch.chdir(below)
    assert main(["report"]) == 2
    told = capsys.readouterr()
    assert (told.out, "rounds" in told.err) == (f"In {workshop}:\n", True)
