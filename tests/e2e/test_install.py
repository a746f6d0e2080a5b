"""What a stranger gets who installs only a part, or the wheel."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGES = {"verse", "verse_server", "verse_trainer", "verse_clients"}

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not installed"),
]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run without the tests' own virtual environment."""
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return subprocess.run(
        [str(part) for part in command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def uv(*arguments: str | Path) -> None:
    result = run("uv", *arguments)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def clients_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the clients and nothing else."""
    venv = tmp_path_factory.mktemp("clients") / "venv"
    uv("venv", "--python", sys.executable, venv)
    programs = venv / "bin"
    uv("pip", "install", "--python", programs / "python", "--editable", f"{PROJECT}[clients]")
    return programs


def test_the_clients_import_where_there_is_no_mlx(clients_bin: Path) -> None:
    code = (
        "import importlib.util, pkgutil, verse, verse_clients\n"
        "for module in pkgutil.walk_packages(verse_clients.__path__, 'verse_clients.'):\n"
        "    importlib.import_module(module.name)\n"
        "print([importlib.util.find_spec(name) for name in ('mlx', 'mlx_lm', 'litestar')])"
    )
    result = run(clients_bin / "python", "-c", code)
    assert result.stderr == ""
    assert result.stdout == "[None, None, None]\n"


def test_a_command_of_another_part_tells_how_to_install_it(clients_bin: Path) -> None:
    result = run(clients_bin / "verse", "serve", "--port", "0")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        "verse serve needs the server part; "
        "in the folder of Verse run: pip install -e '.[server]'\n"
    )


def test_models_are_compared_by_the_clients_alone(clients_bin: Path) -> None:
    compare = (clients_bin / "verse", "adapters", "compare", "mine", "--themes", "河")
    result = run(*compare, "--base-url", "http://127.0.0.1:9/v1")
    assert result.returncode == 2
    assert result.stderr == "No server answers at http://127.0.0.1:9/v1.\n"


def test_help_works_with_one_part_alone(clients_bin: Path) -> None:
    result = run(clients_bin / "verse", "--help")
    assert result.returncode == 0
    assert "serve" in result.stdout


def test_the_wheel_holds_the_four_packages_and_nothing_else(tmp_path: Path) -> None:
    uv("build", "--wheel", "--out-dir", tmp_path, PROJECT)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top_level = {name.split("/")[0] for name in names}
    assert {name for name in top_level if not name.endswith(".dist-info")} == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    page = {path.name for path in (PROJECT / "server" / "verse_server" / "page").iterdir()}
    assert {f"verse_server/page/{name}" for name in page | {"index.html"}} <= set(names)
    presets = {path.name for path in (PROJECT / "trainer" / "presets").iterdir()}
    assert presets
    assert {f"verse_trainer/presets/{name}" for name in presets} <= set(names)
