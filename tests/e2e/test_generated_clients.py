"""Clients that generators make of the OpenAPI document: made without a warning, and they work."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Served, copy_of_examples, start
from tests.e2e.test_real_clients import (
    CHECKS,
    KEY,
    PYTEST,
    assert_all_passed,
    output,
    run,
    skip_unless_installed,
)

pytestmark = pytest.mark.network

GENERATOR = "openapi-python-client==0.29.1"
NODE_PACKAGES = (
    "openapi-typescript@^7.13",
    "typescript@^5.9",
    "@types/node@^24",
)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    running = start(
        copy_of_examples(tmp_path_factory.mktemp("keyed") / "adapters"), "--api-key", KEY
    )
    yield running
    running.stop()


@pytest.fixture
def document(keyed: Served, tmp_path: Path) -> Path:
    path = tmp_path / "openapi.json"
    path.write_text(httpx.get(keyed.base_url.removesuffix("/v1") + "/schema/openapi.json").text)
    return path


def test_openapi_python_client_makes_a_client_that_works(
    keyed: Served, document: Path, tmp_path: Path
) -> None:
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    begin = ("uv", "run", "--no-project", "--isolated", "--with", GENERATOR)
    skip_unless_installed(GENERATOR, run(keyed, tmp_path, *begin, "python", "-c", "pass"))
    made = output(
        keyed, tmp_path, *begin, "openapi-python-client", "generate", "--path", document,
        "--output-path", tmp_path / "made", "--meta", "none", "--fail-on-warning",
    )  # fmt: skip
    assert "warning" not in made.lower()
    shutil.move(tmp_path / "made", tmp_path / "verse_client")
    checks = shutil.copy(CHECKS / "generated_checks.py", tmp_path)
    needs = ("--with", "httpx>=0.28,<1", "--with", "attrs>=25,<27", "--with", "pytest>=9,<10")
    ran = (
        "uv",
        "run",
        "--no-project",
        "--isolated",
        *needs,
        *PYTEST,
        "--rootdir",
        tmp_path,
        checks,
    )
    assert_all_passed(output(keyed, tmp_path, *ran))


def test_openapi_typescript_makes_types_that_fit(
    keyed: Served, document: Path, tmp_path: Path
) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("there is no Node")
    options = ("--prefix", tmp_path, "--ignore-scripts", "--no-audit", "--no-fund")
    skip_unless_installed(
        "openapi-typescript", run(keyed, tmp_path, npm, "install", *options, *NODE_PACKAGES)
    )
    binaries = tmp_path / "node_modules" / ".bin"
    output(
        keyed, tmp_path, binaries / "openapi-typescript", document, "-o", tmp_path / "schema.d.ts"
    )
    shutil.copy(CHECKS / "generated_checks.ts", tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    settings = {
        "compilerOptions": {
            "strict": True,
            "module": "esnext",
            "moduleResolution": "bundler",
            "target": "es2022",
            "types": ["node"],
            "skipLibCheck": True,
        },
        "files": ["generated_checks.ts"],
    }
    (tmp_path / "tsconfig.json").write_text(json.dumps(settings))
    output(keyed, tmp_path, binaries / "tsc")
    assert "xuzhimo" in output(keyed, tmp_path, node, "generated_checks.js")
