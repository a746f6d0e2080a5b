"""What holds for every command of `verse`, whichever part it is in."""

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer.main

from verse.cli import main
from verse.folders import RULE
from verse.records import Candidate

ROOT = Path(__file__).parents[2]


def commands() -> Iterator[tuple[str, Any]]:
    """Every command and sub-command, by how it is called."""
    for point in metadata.entry_points(group="verse.commands"):
        name, command = point.name.replace(".", " "), typer.main.get_command(point.load())
        yield name, command
        for last, nested in getattr(command, "commands", {}).items():
            yield f"{name} {last}", nested


COMMANDS = dict(commands())
FOUND_BY_RULE = {
    *(
        "serve",
        "train",
        "generate",
        "write",
        "curate",
        "curate open",
        "data import",
        "data check",
        "data split",
    ),
    *("adapters list", "adapters show", "adapters import", "adapters export"),
    *("adapters fuse", "adapters remove"),
    *("refine start", "refine filter", "refine convert", "refine compare"),
}
"""What has a folder or a file that the rule finds where no flag names one."""


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("name", sorted(FOUND_BY_RULE))
def test_help_says_where_folders_are_looked_for(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*name.split(), "--help"]) == 0
    assert words(capsys.readouterr().out).endswith(RULE)


def test_no_other_command_claims_to_look() -> None:
    assert {name for name, command in COMMANDS.items() if command.epilog == RULE} == FOUND_BY_RULE


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_h_is_help_and_help_has_one_style(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "-h"]) == 0
    short = capsys.readouterr().out
    assert main([*name.split(), "--help"]) == 0
    assert capsys.readouterr().out == short
    assert short.startswith(f"Usage: verse {name} [OPTIONS]")
    assert "  -h, --help " in short
    assert COMMANDS[name].rich_markup_mode is None
    assert COMMANDS[name].help.endswith(".")


def test_the_help_of_curate_has_the_options_of_its_window(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["curate", "--help"]) == 0
    told = capsys.readouterr().out
    options = {opt for param in COMMANDS["curate open"].params for opt in param.opts}
    assert {"--keymap", "--order", "--training"} <= options
    assert all(f"  {option} " in told for option in options if option.startswith("-"))
    assert "poems..." in told
    assert "  export " in told


@pytest.mark.parametrize(
    ("typed", "offered", "not_offered"),
    [
        ("verse ad", ["adapters"], []),
        ("verse adapters ", ["list", "compare"], []),
        ("verse generate --adapter-", ["--adapter-dir"], ["--seed"]),
        ("verse train --prompt-format ", ["seed-chatml"], []),
        ("verse xyz", [], ["serve"]),
    ],
)
def test_a_shell_completes_commands_and_options(
    typed: str,
    offered: list[str],
    not_offered: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("_VERSE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split(" ")) - 1))
    assert main([]) == 0
    completions = capsys.readouterr().out.split()
    assert set(offered) <= set(completions)
    assert not set(not_offered) & set(completions)


def test_completion_is_installed_for_the_shell_one_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    assert main(["--install-completion"]) == 0
    script = tmp_path / ".bash_completions" / "verse.sh"
    assert "_VERSE_COMPLETE=complete_bash" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()
    assert "completion installed" in capsys.readouterr().out
    assert main(["--show-completion"]) == 0
    assert capsys.readouterr().out.strip() == script.read_text()


@pytest.fixture
def below_a_workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder below one with data/ and adapters/, which are the user's own."""
    below = tmp_path / "2026" / "spring"
    below.mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "poems.jsonl").write_text(
        '{"theme": "河", "text": "河水向东\\n我向西"}\n{"theme": "灯", "text": "灯下\\n一个人"}\n',
        "utf-8",
    )
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "mine").symlink_to(ROOT / "adapters" / "xuzhimo")
    monkeypatch.delenv("VERSE_HOME", raising=False)
    monkeypatch.delenv("VERSE_ADAPTERS", raising=False)
    monkeypatch.chdir(below)
    return tmp_path


Capture = pytest.CaptureFixture[str]


def test_adapters_are_found_in_the_folder_above(below_a_workshop: Path, capsys: Capture) -> None:
    assert main(["adapters", "list", "--json"]) == 0
    assert '"name": "mine"' in capsys.readouterr().out
    assert main(["adapters", "remove", "mine", "--yes"]) == 0
    assert list((below_a_workshop / "adapters").iterdir()) == [
        below_a_workshop / "adapters" / ".trash"
    ]


def test_poems_are_added_and_split_in_the_folder_above(below_a_workshop: Path) -> None:
    data = below_a_workshop / "data"
    Path("new.txt").write_text("雨\n\n雨停了\n伞还开着\n", "utf-8")
    assert main(["data", "import", "new.txt"]) == 0
    assert "雨停了" in (data / "poems.jsonl").read_text("utf-8")
    assert main(["data", "split"]) == 0
    assert (data / "train.jsonl").exists()


def test_poems_are_checked_in_the_folder_above(
    below_a_workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from verse_trainer.data_set import checking
    from verse_trainer.data_set.checks import CheckReport

    def check_data(path: Path, *_: object, **_how: object) -> CheckReport:
        assert path == below_a_workshop / "data"
        return CheckReport(num_entries={}, limit=1, model="", problems=())

    monkeypatch.setattr(checking, "check_data", check_data)
    assert main(["data", "check"]) == 0


def test_a_run_reads_and_writes_in_the_folder_above(below_a_workshop: Path) -> None:
    from verse_trainer.command import read_config

    config = read_config("verse-tiny", {}).config
    assert Path(config.data) == below_a_workshop / "data"
    assert Path(config.adapter_path) == below_a_workshop / "adapters" / "mine"
    typed = read_config("verse-tiny", {"data": "data", "adapter_path": "mine"}).config
    assert (typed.data, typed.adapter_path) == ("data", "mine")


def test_poems_of_the_folder_above_must_not_be_copied(below_a_workshop: Path) -> None:
    from verse_clients.generate.inputs import usual_training

    assert usual_training() == [below_a_workshop / "data" / "poems.jsonl"]


def test_the_window_warns_of_copies_from_the_folder_above(
    below_a_workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from verse_clients.curate import cli
    from verse_clients.curate.app import CurationApp

    poem = '{"theme": "河", "text": "河水向东流去不回头\\n我向西走了很久很久"}\n'
    (below_a_workshop / "data" / "poems.jsonl").write_text(poem, "utf-8")
    Path("written.jsonl").write_text(poem, "utf-8")
    seen: list[str] = []

    def window(app: CurationApp, **_: object) -> int:
        candidate = Candidate(theme="河", text="河水向东流去不回头\n我向西走了很久很久")
        seen.extend(finding.reason for _, finding in app.inspector.findings([candidate]))
        return 0

    monkeypatch.setattr(cli, "_view", lambda: window)
    assert main(["curate", "written.jsonl"]) == 0
    assert seen == ["copy"]


@pytest.mark.parametrize("where", ["above", "VERSE_HOME"])
def test_a_server_serves_what_the_rule_finds(
    where: str,
    below_a_workshop: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    from verse_server import cli
    from verse_server.config import ServerConfig

    if where == "VERSE_HOME":
        monkeypatch.setenv("VERSE_HOME", str(below_a_workshop))
        monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    started: list[ServerConfig] = []

    def start(config: ServerConfig) -> int:
        started.append(config)
        return 0

    monkeypatch.setattr(cli, "_start_and_run", start)
    assert main(["serve"]) == 0
    assert started[0].engine.adapters == below_a_workshop / "adapters"
