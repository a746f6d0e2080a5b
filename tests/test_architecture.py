"""ARCHITECTURE.md's tree is the code's own: each module with the first line of its docstring.

After a change, `uv run python -m tests.test_architecture` writes it anew.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
PAGE = REPOSITORY / "ARCHITECTURE.md"
PACKAGES = ("core/verse", "server/verse_server", "trainer/verse_trainer", "clients/verse_clients")
BEGIN, END = "<!-- tree: begin -->\n", "<!-- tree: end -->\n"


def tree() -> str:
    """Every package and module, one a line, those of a folder below it."""
    return "\n".join(
        ["```", *(line for package in PACKAGES for line in _lines(package)), "```", ""]
    )


def _lines(package: str) -> Iterator[str]:
    root = REPOSITORY / package
    folders = sorted({root, *(path.parent for path in root.rglob("*.py"))})
    for folder in folders:
        name = folder.relative_to(REPOSITORY).as_posix()
        yield f"{name}/".ljust(44) + _about(folder / "__init__.py")
        for module in sorted(folder.glob("*.py")):
            if module.name != "__init__.py":
                yield f"    {module.name}".ljust(28) + _about(module)


def _about(module: Path) -> str:
    text = ast.get_docstring(ast.parse(module.read_text("utf-8"))) or ""
    return text.partition("\n")[0]


def test_the_tree_of_the_architecture_is_the_codes_own() -> None:
    _, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    assert rest.partition(END)[0] == tree(), "run: uv run python -m tests.test_architecture"


if __name__ == "__main__":
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + tree() + END + rest.partition(END)[2], "utf-8")
