import ctypes
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from verse import openblas

OPENBLAS = Path(sysconfig.get_path("purelib"), "cmeel.prefix/lib/libopenblas.so.0")
needs_the_wheel = pytest.mark.skipif(not OPENBLAS.exists(), reason="no OpenBLAS wheel here")


class Loader:
    """Stands in for `ctypes.CDLL`: OpenBLAS loads only once a libgfortran has."""

    def __init__(self, gfortran_is_there: bool) -> None:
        self._gfortran_is_there = gfortran_is_there
        self.loaded: list[str] = []
        self.gfortran_copy = b""

    def __call__(self, path: str, mode: int) -> None:
        assert mode == ctypes.RTLD_GLOBAL
        if "openblas" in path and not self._gfortran_is_there:
            raise OSError("libgfortran.so.5: cannot open shared object file")
        if b"ELF fortran" in (content := Path(path).read_bytes()):
            self._gfortran_is_there, self.gfortran_copy = True, content
        self.loaded.append(Path(path).name)


@pytest.fixture
def purelib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site-packages with an OpenBLAS wheel and mlx's own libraries."""
    for name, content in (
        ("cmeel.prefix/lib/libopenblas.so.0", b""),
        ("mlx_cpu.libs/libquadmath-a9.so.0.0.0", b""),
        ("mlx_cpu.libs/libgfortran-f7.so.5.0.0", b"ELF fortran\0libgfortran-f7.so.5.0.0\0end"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)

    def get_path(name: str) -> str:
        return str(tmp_path)

    # Set and taken away again, so that what a test leaves behind is undone.
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    monkeypatch.setattr(sysconfig, "get_path", get_path)
    monkeypatch.setattr(sys, "platform", "linux")
    return tmp_path


def use(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> Loader:
    monkeypatch.setattr(ctypes, "CDLL", loader)
    return loader


def test_its_threads_leave_spare_cores_unless_the_user_says_otherwise(
    purelib: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(Loader(gfortran_is_there=True), monkeypatch)

    def eight_cores(_pid: int) -> set[int]:
        return set(range(8))

    monkeypatch.setattr(os, "sched_getaffinity", eight_cores, raising=False)
    for given, spare, expected in ((None, 1, "7"), (None, 0, "8"), (None, 9, "1"), ("3", 1, "3")):
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
        if given is not None:
            monkeypatch.setenv("OPENBLAS_NUM_THREADS", given)
        openblas.preload(spare)
        assert os.environ["OPENBLAS_NUM_THREADS"] == expected


def test_openblas_alone_is_loaded_where_the_system_has_libgfortran(
    purelib: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = use(Loader(gfortran_is_there=True), monkeypatch)
    assert openblas.preload()
    assert loader.loaded == ["libopenblas.so.0"]


def test_mlxs_libgfortran_helps_out_under_the_name_that_openblas_asks_for(
    purelib: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = use(Loader(gfortran_is_there=False), monkeypatch)
    assert openblas.preload()
    assert loader.loaded[0] == "libquadmath-a9.so.0.0.0"
    assert loader.loaded[-1] == "libopenblas.so.0"
    original = (purelib / "mlx_cpu.libs/libgfortran-f7.so.5.0.0").read_bytes()
    assert b"\0libgfortran.so.5\0" in loader.gfortran_copy
    assert len(loader.gfortran_copy) == len(original)


def test_without_any_libgfortran_mlx_goes_without_openblas(
    purelib: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in (purelib / "mlx_cpu.libs").iterdir():
        library.unlink()
    use(Loader(gfortran_is_there=False), monkeypatch)
    assert not openblas.preload()


@pytest.mark.parametrize("lacking", ["linux", "the wheel"])
def test_nothing_is_loaded_where_it_is_not_needed(
    lacking: str, purelib: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = use(Loader(gfortran_is_there=True), monkeypatch)
    if lacking == "linux":
        monkeypatch.setattr(sys, "platform", "darwin")
    else:
        (purelib / "cmeel.prefix/lib/libopenblas.so.0").unlink()
    assert not openblas.preload()
    assert loader.loaded == []


PRODUCT = """
import mlx.core as mx
product = mx.ones((8, 16)) @ mx.ones((16, 8))
assert mx.all(product == 16)
"""


@needs_the_wheel
@pytest.mark.parametrize(
    "imports",
    [
        "from verse import openblas; assert openblas.preload() and openblas.preload()",
        "import verse_trainer.child; from verse_trainer import evaluation, run",
        "from verse_trainer.adapters import cli; cli.prepare(); import mlx.core",
        "import verse_server.engine.engine",
        "import verse.base_model",
        "import verse.cpu_weights.layers",
    ],
)
def test_mlx_takes_its_products_from_openblas(imports: str, tmp_path: Path) -> None:
    """In every process of ours, whichever of its modules imports mlx first."""
    # The loader itself tells which library a name was found in.
    log = {"LD_DEBUG": "bindings", "LD_DEBUG_OUTPUT": str(tmp_path / "log")}
    command = [sys.executable, "-c", imports + PRODUCT]
    subprocess.run(command, env={**os.environ, **log}, check=True)
    lines = "".join(file.read_text("utf-8") for file in tmp_path.iterdir()).splitlines()
    found = [line for line in lines if "libmlx" in line and "`cblas_sgemm'" in line]
    assert found
    assert all(f"to {OPENBLAS}" in line for line in found)


def test_loading_it_does_not_load_mlx() -> None:
    code = "import sys; from verse import openblas; openblas.preload(); print('mlx' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


NUMPY = sorted(Path(sysconfig.get_path("purelib"), "numpy.libs").glob("libscipy_openblas64_*"))
ASKED = """
import ctypes, sys
import verse_server.engine
import numpy
print(ctypes.CDLL(sys.argv[1]).scipy_openblas_get_num_threads64_())
print(ctypes.CDLL(sys.argv[2]).openblas_get_num_threads())
"""


@needs_the_wheel
@pytest.mark.skipif(not NUMPY, reason="numpy has no OpenBLAS of its own here")
def test_a_server_leaves_the_threads_of_numpy_to_its_own_and_those_of_mlx_as_they_are() -> None:
    command = [sys.executable, "-c", ASKED, str(NUMPY[0]), str(OPENBLAS)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["1", str(min(2, len(os.sched_getaffinity(0))))]


def test_without_an_openblas_of_numpy_there_is_nothing_to_set(purelib: Path) -> None:
    assert not openblas.one_thread_in_numpy()
    (purelib / "numpy.libs").mkdir()
    (purelib / "numpy.libs" / "libscipy_openblas64_-1.so").write_bytes(b"no library")
    assert not openblas.one_thread_in_numpy()
