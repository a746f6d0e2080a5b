"""The size of the house and the words on its doors: counted, so that neither grows back.

CONTRIBUTING.md has the rules. A limit that stands in the way of better code may be moved, with a
reason; a limit that was undershot is lowered.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("core", "server", "trainer", "clients")

MAX_FILES = {"core": 56, "server": 115, "trainer": 61, "clients": 94}
MAX_FILES_IN_ALL = 326
MAX_FILE_LINES = 450
MAX_BODY_LINES = 50

PRIVATE_WORDS = frozenset(
    {
        *("border", "conduct", "court", "desk", "errand", "harvest", "keeper", "keeping"),
        *("manner", "manners", "panel", "patience", "place", "places", "roomy", "seat", "seating"),
        *("seats", "settling", "sitting", "standing", "strangers", "twin", "twins", "yardstick"),
    }
)
"""What the parts of a module's or a class's name must not be: no engineer would search for it."""


SAYING_NOTHING = frozenset({"common", "helper", "helpers", "manager", "misc", "util", "utils"})
"""What no module is called: anything could be in it."""


def files(*parts: str) -> list[Path]:
    return sorted(path for part in parts for path in (ROOT / part).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text("utf-8")))


@pytest.mark.parametrize("part", PARTS)
def test_a_part_has_no_more_files_than_it_may_have(part: str) -> None:
    assert 0 < len(files(part)) <= MAX_FILES[part]


def test_all_parts_together_have_no_more_files_than_they_may_have() -> None:
    assert len(files(*PARTS)) <= MAX_FILES_IN_ALL


def test_a_public_class_name_means_one_thing() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for path in files(*PARTS):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(name_of(path))
    assert len(homes) > 100
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def test_no_file_is_longer_than_one_can_keep_in_mind() -> None:
    lengths = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in files(*PARTS)}
    assert {name: length for name, length in lengths.items() if length > MAX_FILE_LINES} == {}


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Without the signature, which of a command is its table of options, and the docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        f"{name_of(path)}:{node.name}": body_lines(node)
        for path in files(*PARTS)
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and body_lines(node) > MAX_BODY_LINES
    }
    assert long == {}


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [name_of(path) for path in files(*PARTS) if path.stem in SAYING_NOTHING] == []


def words(name: str) -> set[str]:
    """`BatchSeats` and `batch_seats` are both `batch` and `seats`."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def test_names_are_the_fields_own_words() -> None:
    assert words("RowSeats") == words("row_seats") == {"row", "seats"}
    found: list[str] = []
    for path in files(*PARTS):
        names = set(path.relative_to(ROOT).with_suffix("").parts)
        names |= {node.name for node in nodes(path) if isinstance(node, ast.ClassDef)}
        found += [f"{name_of(path)}: {name}" for name in names if words(name) & PRIVATE_WORDS]
    assert found == []
