"""The benchmarks are run by hand, so that nobody would notice what a rename broke in them."""

import importlib
import json
from argparse import ArgumentTypeError
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import batch

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "benchmarks").rglob("*.py")
)


@pytest.mark.parametrize("name", MODULES)
def test_a_benchmark_finds_all_that_it_imports(name: str) -> None:
    importlib.import_module(name)


def test_pieces_of_a_measurement_are_put_together(tmp_path: Path) -> None:
    file = tmp_path / "poems.json"
    assert batch.earlier(file) == {}
    process, ours = batch.Way(60, 600.0, 400.0, 3000), batch.Way(60, 5.0, 45.0, 3000)
    file.write_text(json.dumps({"ways": {batch.PIECES["process"]: asdict(process)}}))
    ways = batch.earlier(file) | {batch.PIECES["generate"]: ours}
    assert "| one process per poem | 600.0 | 400.0 | 50 | 216 | 20.0 |" in batch.report(ways)
    assert batch.pieces("process,served") == ["process", "served"]
    with pytest.raises(ArgumentTypeError, match="'poem' is none of generate, batch"):
        batch.pieces("poem")
