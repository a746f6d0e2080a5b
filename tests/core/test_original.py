"""docs/original.md: the original project's commands beside ours, both as our parser reads them."""

import re
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer.main

from verse.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "original.md").read_text("utf-8")
ROWS = [
    [re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split(" | ")[:2]]
    for line in PAGE.splitlines()
    if line.startswith("| `")
]
PROGRAMS = {
    "mlx_lm.lora": "train",
    "mlx_lm.generate": "write",
    "generate2.py": "generate",
    "process2.py": "judge",
    "utils/convert_selections.py": "refine convert",
}
"""What Verse has in their place. `cat` and the original's window have no flags to read."""
POINTS = {point.name: point for point in metadata.entry_points(group="verse.commands")}


def words(line: str) -> list[str]:
    """As a shell gives them; a file of words has three."""
    return shlex.split(line.replace("$(cat input/words.txt)", "河 雨\n雪"))


def ours(line: str) -> list[str] | None:
    """What follows `verse`; None for a program that Verse has no flags of."""
    program, *rest = [word for word in words(line) if word != "python"]
    if program == "verse":
        return rest
    return [*PROGRAMS[program].split(), *rest] if program in PROGRAMS else None


def parsed(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """The command that would run, and its options; it does not run."""
    name, *rest = arguments
    command: Any = typer.main.get_command(POINTS[name].load())
    context = command.make_context(name, rest)
    left = [*getattr(context, "_protected_args", []), *context.args]
    if not left:
        return name, context.params
    last, nested, rest = command.resolve_command(context, left)
    return f"{name} {last}", nested.make_context(last, rest, parent=context).params


def test_the_page_has_the_originals_twelve_commands() -> None:
    assert len(ROWS) == 12
    assert all(original and verse for original, verse in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=[row[0][0] for row in ROWS])
def test_both_columns_are_read_and_mean_the_same(
    row: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    for original, verse in zip(*row, strict=True):
        known, arguments = ours(original), ours(verse)
        assert arguments is not None
        if arguments[-1] in ("-h", "--help"):
            assert known is not None
            assert main(known) == main(arguments) == 0
            assert capsys.readouterr().out.count("Usage: verse ") == 2
        elif known is None:
            parsed(arguments)
        else:
            assert parsed(known) == parsed(arguments)


def read(original: str) -> dict[str, Any]:
    arguments = ours(original)
    assert arguments is not None
    return parsed(arguments)[1]


def test_the_values_are_those_that_were_typed() -> None:
    batch = read('python generate2.py -p "$(cat input/words.txt)" -m M -a A -o NAME -e 300')
    assert batch["words"] == ["河 雨\n雪"]
    assert (batch["model"], batch["original_adapters"]) == ("M", "A")
    assert (batch["start_epoch"], batch["output"]) == (300, Path("NAME"))
    assert read("generate2.py -m M -a A -o NAME --start-epoch 3000 -p 河 雨")["words"] == [
        "河",
        "雨",
    ]
    one = read("mlx_lm.generate --model M --adapter-path A/0001600_adapters.safetensors --prompt P")
    assert one["adapter_path"] == "A/0001600_adapters.safetensors"
    assert (one["model"], one["prompt"], one["theme"]) == ("M", "P", ())
    assert read("process2.py -i NAME.json -o ranked.json")["poems"] == [Path("NAME.json")]
    run = read("mlx_lm.lora --train --data ./data --iters 3600 --learning-rate 2e-6 --batch-size 8")
    assert (run["train"], run["data"], run["iters"]) == (True, "./data", 3600)
    assert (run["learning_rate"], run["batch_size"]) == (2e-6, 8)
