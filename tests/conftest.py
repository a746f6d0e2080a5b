"""What all tests share."""

import gc
import os
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A machine that is busy with something else makes no test fail.
settings.register_profile(
    "verse", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("verse")


if sys.dont_write_bytecode:
    # Whoever wants no __pycache__ beside the files gets them elsewhere: tests start commands by the
    # hundred, and each of them would compile all its libraries.
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(tempfile.gettempdir(), f"verse-tests-{os.getuid()}-bytecode"))
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # Two workers with two threads each would wait for each other; commands inherit it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # mlx keeps compiled kernels there, and would load one that another worker is still writing.
    kernels = Path(tempfile.gettempdir(), f"verse-tests-{os.getuid()}-{worker}")
    kernels.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(kernels)

if (compiler := shutil.which("g++")) and "VERSE_TESTS_COMPILER" not in os.environ:
    # Commands inherit it, and what is kept outlives the run.
    compiled = f"verse-tests-{os.getuid()}-kernels-{metadata.version('mlx')}"
    (kept := Path(tempfile.gettempdir(), compiled)).mkdir(mode=0o700, exist_ok=True)
    os.environ |= {"VERSE_TESTS_COMPILER": compiler, "VERSE_TESTS_KERNELS": str(kept)}
    os.environ["PATH"] = f"{Path(__file__).with_name('bin')}{os.pathsep}{os.environ['PATH']}"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Several processes for the whole suite; none for the few tests that somebody names."""
    is_whole = config.args == [*map(str, config.getini("testpaths"))] and not config.option.keyword
    if config.option.markexpr == "qwen":  # a real model once, not once a process
        return 0
    return min(os.cpu_count() or 1, 4) if is_whole else 0


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end.

    No collection of garbage looks through these objects again, and a young one need not come with
    every 700 new objects: a quarter of the processor's time of the API's tests went there.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio; the anyio plugin comes with httpx."""
    return "asyncio"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that needs a real model says why it is left out."""
    if not os.environ.get("VERSE_QWEN"):
        missing = pytest.mark.skip(reason="set VERSE_QWEN to a Qwen2 folder or a Hugging Face id")
        for item in items:
            if item.get_closest_marker("qwen"):
                item.add_marker(missing)


@pytest.fixture(scope="session")
def qwen() -> str:
    """A real model, as `--model` takes it; for tests that are marked `qwen`."""
    return os.environ["VERSE_QWEN"]
