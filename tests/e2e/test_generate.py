"""`verse generate` against the real server."""

import subprocess
from pathlib import Path

import msgspec
import pytest

from tests.e2e.conftest import ROOT, VERSE, Served
from verse import jsonl
from verse.records import Candidate

pytestmark = pytest.mark.slow


def generate(served: Served, folder: Path, *options: str) -> list[Candidate]:
    output = folder / "poems.jsonl"
    command = [str(VERSE), "generate", "--base-url", served.base_url, "-o", str(output), *options]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return jsonl.read(output, msgspec.json.Decoder(Candidate))


def test_seeds_write_the_same_poems_again_and_best_is_a_step(
    served: Served, tmp_path: Path
) -> None:
    options = ["-p", "河 雨", "-a", "xuzhimo,base,hushi:0.5", "-n", "2", "--max-tokens", "24"]
    options += ["--checkpoints", "best,published"]
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    poems = generate(served, first, *options)
    assert {poem.model for poem in poems} == {"xuzhimo@64", "xuzhimo", "base", "hushi:0.5"}
    assert len(poems) == 2 * 4 * 2
    assert all(poem.digest and poem.completion_tokens for poem in poems)
    again = generate(served, second, *options)
    assert {(p.id, p.text) for p in again} == {(p.id, p.text) for p in poems}
