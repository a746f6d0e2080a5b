"""README says what is so: its help text is the command's, its examples run."""

import subprocess
import sys

from tests.e2e.conftest import ROOT, VERSE, Served
from tests.e2e.guide import block

README = (ROOT / "README.md").read_text("utf-8")


def test_the_help_in_the_readme_is_what_the_command_prints() -> None:
    printed = subprocess.run(
        [VERSE, "serve", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = "\n".join(line.rstrip() for line in printed.stdout.strip().splitlines())
    assert block(README, "", "Usage: verse serve").strip() == lines


def test_the_python_example_prints_a_poem(served: Served) -> None:
    example = block(README, "python", "OpenAI(").replace(
        "http://127.0.0.1:8000/v1", served.base_url
    )
    ran = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, check=True, timeout=180
    )
    assert any("\u4e00" <= character <= "\u9fff" for character in ran.stdout)


def test_the_curl_example_gets_a_poem(served: Served) -> None:
    example = block(README, "", "curl http").replace("http://127.0.0.1:8000/v1", served.base_url)
    ran = subprocess.run(
        ["bash", "-c", example], capture_output=True, text=True, check=True, timeout=180
    )
    assert '"role":"assistant"' in ran.stdout


def test_every_path_the_readme_names_exists() -> None:
    tree = block(README, "", "core/verse/ ")
    folder = ROOT
    for line in tree.splitlines():
        name = line.split()[0]
        folder = ROOT / name if not line.startswith(" ") else folder
        path = folder if not line.startswith(" ") else folder / name
        assert path.exists(), path
