"""A tiny random base for training runs; loaded only by the tests that ask for it."""

from collections.abc import Generator
from contextlib import nullcontext
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
def quick() -> Generator[None]:
    """Runs without what takes most of their time; see `runs.quick`."""
    from tests.trainer import runs

    with runs.quick():
        yield


@pytest.fixture
def as_shipped() -> None:
    """For a test whose runs are to compile their steps, wait for the disk and draw their losses."""


@pytest.fixture
def runs(
    tiny_base: "BaseModel", tmp_path: Path, request: pytest.FixtureRequest
) -> Generator["Runs"]:
    from tests.trainer.runs import Runs, quick

    with nullcontext() if "as_shipped" in request.fixturenames else quick():
        yield Runs(tiny_base, tmp_path)
