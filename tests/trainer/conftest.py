"""A tiny random base for training runs; loaded only by the tests that ask for it."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from verse import openblas

# Before any test module imports mlx: with another BLAS the last digits differ.
openblas.preload()

if TYPE_CHECKING:
    from tests.trainer.runs import Runs
    from verse.base_model import BaseModel


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> "BaseModel":
    from tests.trainer import runs

    return runs.load(runs.build_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def runs(tiny_base: "BaseModel", tmp_path: Path) -> "Runs":
    from tests.trainer.runs import Runs

    return Runs(tiny_base, tmp_path)
