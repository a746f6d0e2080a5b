"""Each import contract holds, and can fail: an import planted in a copy breaks it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PARTS = ("core", "server", "trainer", "clients")
PLANTED = {
    "server, trainer and clients stand side by side on the core": (
        ("core/verse/planted.py", "import verse_server.config"),
        ("trainer/verse_trainer/planted.py", "import verse_clients"),
        ("clients/verse_clients/planted.py", "from verse_server import config"),
    ),
    "inside the server: api over protocol and engine, which do not know each other": (
        ("server/verse_server/engine/planted.py", "import verse_server.protocol.chat"),
        ("server/verse_server/protocol/planted.py", "import verse_server.api.streaming"),
        ("server/verse_server/config.py", "import verse_server.engine.types"),
    ),
    "inside the api: controllers over answers over what both stand on": (
        ("server/verse_server/api/errors.py", "import verse_server.api.streaming"),
        ("server/verse_server/api/models.py", "import verse_server.api.completions"),
    ),
    "api knows the engine's records and errors, nothing behind them": (
        ("server/verse_server/api/planted.py", "import verse_server.engine.scheduler"),
    ),
    "inside the state: the folder over its stores over the database": (
        ("server/verse_server/state/database.py", "import verse_server.state.files"),
    ),
    "inside verse train: commands over the run, its loop, its files, its arithmetic": (
        ("trainer/verse_trainer/step.py", "import verse_trainer.checkpoint"),
        ("trainer/verse_trainer/config.py", "import verse_trainer.config_checks"),
    ),
    "what a run is asked, counts and reports needs no mlx": (
        ("trainer/verse_trainer/plan.py", "import mlx.core as mx"),
    ),
    "the trainer's commands on data and on adapters do not know each other": (
        ("trainer/verse_trainer/data_set/planted.py", "import verse_trainer.adapters.folders"),
    ),
    "inside machines: mlx's group over ranks that have met over what they are told": (
        ("core/verse/machines/launch.py", "import verse.machines.ranks"),
    ),
    "inside the reading of poem files: which format, formats, what comes out": (
        ("core/verse/poem_files/pieces.py", "import verse.poem_files.json_files"),
    ),
    "inside verse data: rows, what is imported, what is made of it, what is said": (
        ("trainer/verse_trainer/data_set/rows.py", "import verse_trainer.data_set.checks"),
    ),
    "inside verse adapters: folders, facts and factors, conversions, what is said": (
        ("trainer/verse_trainer/adapters/folders.py", "import verse_trainer.adapters.factors"),
    ),
    "inside the clients: commands over writing, over decisions": (
        ("clients/verse_clients/generate/plan.py", "import verse_clients.judge.costs"),
        ("clients/verse_clients/planted.py", "import verse_clients.errors"),
    ),
    "inside verse generate: run, writer, files and figures, plan": (
        ("clients/verse_clients/generate/plan.py", "import verse_clients.generate.output"),
    ),
    "inside verse judge: run, pipeline, judges, replies": (
        ("clients/verse_clients/judge/prose.py", "import verse_clients.judge.replies"),
    ),
    "inside verse refine: commands and rounds, steps, plan": (
        ("clients/verse_clients/refine/convert.py", "import verse_clients.refine.files"),
    ),
    "inside verse curate: window, app, session, queue": (
        ("clients/verse_clients/curate/session.py", "import verse_clients.curate.wording"),
    ),
    "mlx only in engine, trainer and core's base_model, cpu_weights, joining": (
        ("core/verse/planted.py", "import mlx.core as mx"),
        ("server/verse_server/serving.py", "from mlx_lm import load"),
    ),
    "clients, api and protocol run where there is no mlx": (
        ("clients/verse_clients/planted.py", "import verse.base_model"),
    ),
    "inside the engine: what asks over what runs over what is kept": (
        ("server/verse_server/engine/kv_cache.py", "import verse_server.engine.sequence"),
        ("server/verse_server/engine/text.py", "import verse_server.engine.delivery"),
        ("server/verse_server/engine/types.py", "import verse_server.engine.interface"),
    ),
    "the engine's policies and its registry import no mlx": (
        ("server/verse_server/engine/scheduler.py", "import mlx.core"),
        ("server/verse_server/engine/adapters/registry.py", "import verse.base_model"),
    ),
    "the engine's records import no mlx": (
        ("server/verse_server/engine/__init__.py", "import mlx.core"),
        ("server/verse_server/engine/types.py", "from verse_server.engine import batch"),
    ),
    "litestar only in api and app": (
        ("server/verse_server/engine/planted.py", "import litestar"),
        ("server/verse_server/protocol/planted.py", "from litestar import get"),
    ),
    "uvicorn only in serving and its connections": (
        ("server/verse_server/app.py", "import uvicorn"),
    ),
    "tkinter only in the curate view": (
        ("clients/verse_clients/planted.py", "import tkinter.ttk"),
        ("core/verse/planted.py", "from tktooltip import ToolTip"),
    ),
    "numkong and onnxruntime only in cpu_weights": (("core/verse/planted.py", "import numkong"),),
    "openai only in one client module": (
        ("clients/verse_clients/planted.py", "from openai import OpenAI"),
    ),
}
CASES = [(contract, *import_) for contract, imports in PLANTED.items() for import_ in imports]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four packages and the contracts, to be spoilt."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(PROJECT / "pyproject.toml", folder)
    for part in PARTS:
        shutil.copytree(PROJECT / part, folder / part)
    return folder


def verdicts(folder: Path) -> dict[str, str]:
    """KEPT or BROKEN for each contract."""
    path = os.pathsep.join(str(folder / part) for part in PARTS)
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    found = dict(re.findall(r"^(.+?) (KEPT|BROKEN)", run.stdout, flags=re.MULTILINE))
    assert found, run.stdout + run.stderr
    return found


def test_every_contract_is_tried_and_kept(copy: Path) -> None:
    assert verdicts(copy) == dict.fromkeys(PLANTED, "KEPT")


@pytest.mark.parametrize(("contract", "file", "line"), CASES)
def test_a_planted_import_breaks_the_contract(
    contract: str, file: str, line: str, copy: Path
) -> None:
    target = copy / file
    before = target.read_text("utf-8") if target.exists() else None
    target.write_text(f"{before or ''}\n{line}\n", "utf-8")
    try:
        assert verdicts(copy)[contract] == "BROKEN"
    finally:
        if before is None:
            target.unlink()
        else:
            target.write_text(before, "utf-8")
