"""What people read has its numbers right: "1 model" and never "1 models", and no "(s)"."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from verse.terminal import are, counted

ROOT = Path(__file__).parents[1]
PARTS = ("core", "server", "trainer", "clients")

_NOUN = re.compile(r" (?:(?:new|more|other|different|accepted) )?([a-z]+s)(?![a-z/])")
_NO_NOUNS = frozenset(
    {
        *("is", "was", "has", "does", "as", "its", "this", "across", "always", "perhaps", "us"),
        *("allows", "answers", "copies", "computes", "exists", "gives", "holds", "knows", "lacks"),
        *("leads", "tells"),
        *("makes", "means", "names", "needs", "ranks", "reads", "records", "says", "takes"),
        *("wants", "writes"),
    }
)
"""Words that end as a plural does and are none, behind a value in a sentence."""
_NEVER_ONE = {
    "errors.py:context_length": "tokens of a model's context",
    "errors.py:count": "OpenAI's own sentence, which clients look for",
    "banner.py:base.context_length": "tokens of a model's context",
    "client.py:context": "tokens of a model's context",
    "printing.py:report.limit": "tokens of a model's context",
    "preflight.py:forecast.trainable_parameters": "one would be no adapter",
    "preflight.py:epochs": "with a decimal",
    "preflight.py:first": "a factor with a decimal",
    "preflight.py:tenth": "a factor with a decimal",
    "lora.py:module.bits": "of a quantized weight",
    "layers.py:layer.bits": "of a quantized weight",
    "layers.py:mode": "a name",
    "launcher.py:len(hosts)": "two at least",
    "encoding.py:most": "many times a model's context",
    "run.py:tokens": "of many requests",
    "summary.py:limits.warn": "at least four, as its flag says",
    "summary.py:limits.block": "at least four, as its flag says",
    "progress.py:count": "more than what is worth reporting",
    "wording.py:len(copy.run)": "more than what is worth reporting",
    "commands.py:len(why.run)": "more than what is worth reporting",
    "pipeline.py:groups": "said of several only",
    "pipeline.py:count": "said of several only",
    "checks.py:num_tokens": "more than a limit",
    "encoding.py:length": "more than a limit",
    "pieces.py:len(lines)": "more than a limit",
    "archives.py:len(members)": "more than a limit",
    "tables.py:num_rows": "more than a limit",
    "safetensors_header.py:length": "more than a limit",
    "safetensors_header.py:num_tensors": "more than a limit",
    "safetensors_header.py:8 + length + end": "more than its first eight",
    "figures.py:best.decided": "at least as many as say something",
    "pages.py:len(table.rows)": "more than a page has room for",
}
"""Values that are never 1 where they are printed, and why."""


def found_sentences() -> Iterator[tuple[Path, ast.JoinedStr | ast.Constant]]:
    for part in PARTS:
        for path in sorted((ROOT / part).rglob("*.py")):
            tree = ast.parse(path.read_text("utf-8"))
            several = told_of_several(tree)
            yield from (
                (path, node)
                for node in ast.walk(tree)
                if isinstance(node, ast.JoinedStr | ast.Constant) and node not in several
            )


@cache
def sentences() -> list[tuple[Path, ast.JoinedStr | ast.Constant]]:
    return list(found_sentences())


def told_of_several(tree: ast.AST) -> set[ast.AST]:
    """The sentences behind an `else` of one thing."""
    return {
        node.orelse
        for node in ast.walk(tree)
        if isinstance(node, ast.IfExp) and ast.unparse(node.test).endswith(" == 1")
    }


def counts(node: ast.JoinedStr) -> Iterator[str]:
    """Values with a noun in the plural right behind them."""
    for value, behind in zip(node.values, node.values[1:], strict=False):
        if not isinstance(value, ast.FormattedValue) or value.conversion == ord("r"):
            continue
        if isinstance(behind, ast.Constant):
            noun = _NOUN.match(str(behind.value))
            if noun and noun[1] not in _NO_NOUNS and _may_be_one(value.value):
                yield ast.unparse(value.value)


def _may_be_one(value: ast.expr) -> bool:
    """What is no constant, and no text made elsewhere."""
    if isinstance(value, ast.Call):
        return isinstance(value.func, ast.Name) and value.func.id in ("len", "sum")
    name = value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", "number")
    return not name.isupper()


def test_numbers_are_counted_in_words_that_fit_one() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {value}"
        for path, node in sentences()
        if isinstance(node, ast.JoinedStr)
        for value in counts(node)
        if f"{path.name}:{value}" not in _NEVER_ONE
    ]
    assert found == []


def test_what_the_test_above_finds_is_what_it_should() -> None:
    (bad,) = (n for n in ast.walk(ast.parse("f'{len(a)} models'")) if isinstance(n, ast.JoinedStr))
    assert list(counts(bad)) == ["len(a)"]
    for fine in ("f'{counted(len(a), \"model\")}'", "f'{MAX} models'", "f'{name} has it'"):
        (node,) = (n for n in ast.walk(ast.parse(fine)) if isinstance(n, ast.JoinedStr))
        assert list(counts(node)) == []


def test_no_sentence_leaves_the_number_open() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for path, node in sentences()
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.search(r"[a-z]\(e?s\)", node.value)
    ]
    assert found == []


def test_words_for_a_number() -> None:
    assert [counted(n, "poem") for n in (0, 1, 2)] == ["0 poems", "1 poem", "2 poems"]
    assert counted(1, "more copy") == "1 more copy"
    assert counted(2, "more copy") == "2 more copies"
    assert counted(2, "essay") == "2 essays"
    assert counted(1_234_567, "token") == "1234567 tokens"
    assert [counted(n, "second") for n in (0.5, 1.0, 2.0)] == [
        "0.5 seconds",
        "1 second",
        "2 seconds",
    ]
    assert (are(1), are(0)) == ("is", "are")
