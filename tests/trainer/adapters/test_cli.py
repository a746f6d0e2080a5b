"""`verse adapters list`, `show`, `export`, `import`, `remove` as a user types them."""

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from tests.trainer.adapters.peft_folders import write_peft
from verse import cli

ROOT = Path(__file__).parents[3]


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    """One sound adapter, `mine`, with two checkpoints."""
    folder = tmp_path / "adapters" / "mine"
    shutil.copytree(ROOT / "adapters" / "libai", folder)
    (folder / "0000165_adapters.safetensors").rename(folder / "0000085_adapters.safetensors")
    shutil.copy(folder / "0000085_adapters.safetensors", folder / "0000017_adapters.safetensors")
    history = [
        {"step": 17, "train_loss": 2.2243, "valid_loss": 2.1549},
        {"step": 85, "train_loss": 2.0008, "valid_loss": 2.0475},
    ]
    changed_config(folder.parent, best_step=85, history=history)
    return folder.parent


@pytest.fixture
def run(adapters: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command on the folder; gives exit code, output and the sentence on stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["adapters", *arguments, "--adapters", str(adapters)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def changed_config(adapters: Path, **changes: Any) -> None:
    file = adapters / "mine" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_list_shows_sound_adapters_and_says_what_is_wrong_with_the_others(
    adapters: Path, run: Any
) -> None:
    write_peft(adapters / "other", use_dora=True)
    (adapters / "empty").mkdir()
    (adapters / "a b").mkdir()
    (adapters / "base").mkdir()
    (adapters / "link").symlink_to(adapters / "mine")
    (adapters / "broken").mkdir()
    (adapters / "broken" / "adapter_config.json").write_text("{")
    (adapters / "notes.txt").write_text("")
    (adapters / ".hidden").mkdir()
    code, printed, _ = run("list")
    assert code == 0
    assert re.search(
        r"mine +│ mlx +│ 8 +│ 2 +│ 17, 85 +│ 85 +│ 2.047 +│ models/verse-tiny +│ +1.8 MB │", printed
    )
    assert re.search(r"other +│ PEFT DoRA +│ 4 +│ 2 +│ - +│ - +│ - +│ someone/base", printed)
    assert "empty: adapter_config.json is missing." in printed
    assert "a b: 'a b' is not a valid adapter name" in printed
    assert "base: 'base' means the base model" in printed
    assert "link: it is a link" in printed
    assert "broken: adapter_config.json cannot be read" in printed
    assert "notes" not in printed
    assert "hidden" not in printed


def test_list_speaks_json(adapters: Path, run: Any) -> None:
    (adapters / "empty").mkdir()
    _, printed, _ = run("list", "--json")
    empty, mine = json.loads(printed)
    assert empty["problem"] == "adapter_config.json is missing."
    assert (mine["name"], mine["checkpoints"], mine["best_step"]) == ("mine", [17, 85], 85)
    assert mine["valid_loss"] == 2.0475


def test_show_tells_losses_layers_run_and_doubts(adapters: Path, run: Any) -> None:
    (adapters / "mine" / "run.json").write_text('{"seed": 7, "data": {"sha256": "abc"}}')
    (adapters / "mine" / "0000099_adapters.safetensors").write_bytes(b"half")
    (adapters / "mine" / "prompt.json").unlink()
    changed_config(adapters, lora_parameters={"rank": 8, "scale": 2.0, "alpha": 8})
    code, printed, _ = run("show", "mine")
    assert code == 0
    assert re.search(r"@17 +│ 2.224 +│ 2.155 ", printed)
    assert re.search(r"published +│ 2.001 +│ 2.047 ", printed)
    assert re.search(r"mlp.down_proj +│ 0-5 +│ 896 x 320 +│ 8 +│ 0\.\d+ to 0\.\d+", printed)
    assert "run seed" in printed
    assert '{"sha256":"abc"}' in printed
    assert "warning: prompt.json is missing" in printed
    assert "warning: alpha / rank is 1; the recorded scale 2 is used." in printed
    assert "warning: 0000099_adapters.safetensors cannot be served" in printed


def test_show_speaks_json_with_the_norm_of_every_layer(run: Any) -> None:
    _, printed, _ = run("show", "mine@17", "--json")
    shown = json.loads(printed)
    assert len(shown["modules"]) == 42
    assert all(module["delta_norm"] > 0 for module in shown["modules"])
    assert [checkpoint["step"] for checkpoint in shown["checkpoints"]] == [None, 17, 85]


def test_show_says_when_an_update_is_nothing_or_no_number(adapters: Path, run: Any) -> None:
    file = adapters / "mine" / "adapters.safetensors"
    weights = load_file(file)
    save_file({name: array * 0 for name, array in weights.items()}, file)
    assert "the update is zero" in run("show", "mine")[1]
    save_file({name: array * float("nan") for name, array in weights.items()}, file)
    assert "NaN" in run("show", "mine")[1]


def test_show_takes_the_newest_checkpoint_where_nothing_is_published(
    adapters: Path, run: Any
) -> None:
    (adapters / "mine" / "adapters.safetensors").unlink()
    code, printed, _ = run("show", "mine")
    assert code == 0
    assert "no published weights; ask for mine@last" in printed
    assert "mlp.down_proj" in printed


@pytest.mark.parametrize("history", ["later", [{"step": "x"}], None, [1]])
def test_a_history_of_another_program_is_no_error(adapters: Path, run: Any, history: Any) -> None:
    changed_config(adapters, history=history)
    assert run("list")[0] == 0
    assert run("show", "mine")[0] == 0


def test_export_and_import_say_what_they_checked(tmp_path: Path, run: Any) -> None:
    code, printed, _ = run(
        "export", "mine", "--checkpoint", "best", "--to", "peft", "-o", str(tmp_path / "peft")
    )
    assert code == 0
    assert "42 modules, rank 8, scale 2." in printed
    assert "Self-check: on random input both sides agree exactly." in printed
    code, printed, _ = run("import", str(tmp_path / "peft"), "--name", "back")
    assert code == 0
    assert "No prompt format" not in printed
    (tmp_path / "peft" / "prompt.json").unlink()
    _, printed, _ = run("import", str(tmp_path / "peft"), "--name", "other")
    assert "No prompt format is recorded" in printed
    _, printed, _ = run("import", str(tmp_path / "peft"), "--name", "third", "--system", "写诗")
    assert "No prompt format" not in printed


def test_fuse_says_what_rounding_took(tmp_path: Path, run: Any) -> None:
    model = str(ROOT / "models" / "verse-tiny")
    code, printed, _ = run("fuse", "mine:0.5", "--model", model, "-o", str(tmp_path / "fused"))
    assert code == 0
    assert re.search(r"rounding took \d\.\d% of what the adapter does", printed)


def test_remove_moves_an_adapter_into_the_trash(adapters: Path, run: Any) -> None:
    files = {file.name for file in (adapters / "mine").iterdir()}
    code, printed, _ = run("remove", "mine", "--yes")
    assert code == 0
    (moved,) = (adapters / ".trash").iterdir()
    assert re.fullmatch(r"mine-\d{8}-\d{6}", moved.name)
    assert printed == f"Moved to {moved}\n"
    assert {file.name for file in moved.iterdir()} == files
    assert run("list")[1] == f"There is no adapter in {adapters}.\n"


def test_remove_takes_one_checkpoint_but_not_the_last_weights(adapters: Path, run: Any) -> None:
    assert run("remove", "mine@17", "--yes")[0] == 0
    (moved,) = (adapters / ".trash").iterdir()
    assert moved.name.startswith("mine@17-")
    assert [file.name for file in moved.iterdir()] == ["0000017_adapters.safetensors"]
    (adapters / "mine" / "adapters.safetensors").unlink()
    code, _, sentence = run("remove", "mine@best", "--yes")
    assert code == 2
    assert "all there is" in sentence
    assert (adapters / "mine" / "0000085_adapters.safetensors").exists()


def test_the_same_name_removed_twice_is_kept_twice(adapters: Path, run: Any) -> None:
    for _ in range(3):
        shutil.copytree(ROOT / "adapters" / "hushi", adapters / "again")
        assert run("remove", "again", "--yes")[0] == 0
    assert len(list((adapters / ".trash").iterdir())) == 3


def test_a_broken_folder_can_be_removed(adapters: Path, run: Any) -> None:
    (adapters / "broken").mkdir()
    assert run("remove", "broken", "--yes")[0] == 0
    assert not (adapters / "broken").exists()


@pytest.mark.parametrize(("answer", "code"), [("n\n", 0), ("\n", 0), ("", 2)])
def test_remove_asks_and_no_answer_is_no(
    adapters: Path, run: Any, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert run("remove", "mine")[0] == code
    assert (adapters / "mine").is_dir()
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run("remove", "mine")[0] == 0
    assert not (adapters / "mine").exists()


@pytest.mark.parametrize(
    "name", ["../outside", "..", ".", "/", "mine/..", ".trash", "", "a\\b", "mine ", "base", "a+b"]
)
@pytest.mark.parametrize(
    "command", [("remove", "--yes"), ("show",), ("export", "--to", "mlx", "-o", "out")]
)
def test_no_name_leads_out_of_the_adapters_folder(
    adapters: Path, run: Any, name: str, command: tuple[str, ...]
) -> None:
    shutil.copytree(ROOT / "adapters" / "hushi", adapters.parent / "outside")
    (adapters / ".trash").mkdir()
    code, _, sentence = run(*command, name)
    assert code == 2
    assert sentence.count("\n") == 1
    assert (adapters.parent / "outside").is_dir()
    assert (adapters / "mine").is_dir()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("show", "mina"), "Did you mean 'mine'?"),
        (("show", "mine@3"), "has no checkpoint 3; there is mine@17, mine@85"),
        (("remove", "mine:0.5", "--yes"), "strength has no meaning"),
        (("export", "mine:0.5", "--to", "mlx", "-o", "out"), "no strength"),
        (("export", "mine@17", "--checkpoint", "85", "--to", "mlx", "-o", "o"), "already"),
        (("export", "mine", "--checkpoint", "first", "--to", "mlx", "-o", "o"), "is not NAME"),
        (("fuse", "mine", "--model", "/nowhere", "-o", "out"), "no model folder"),
        (("import", "/nowhere"), "There is no folder /nowhere."),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path,
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed, said = run(*arguments)
    assert code == 2
    assert printed == ""
    assert sentence in said
    assert said.count("\n") == 1


def test_an_adapters_folder_that_is_not_there_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["adapters", "list", "--adapters", str(tmp_path / "none")]) == 2
    assert "name one with --adapters" in capsys.readouterr().err
