"""A fast BLAS for mlx on Linux.

The `mlx[cpu]` wheel links the reference BLAS. A library that is already in the process's global
scope wins over it, so loading OpenBLAS before `mlx.core` makes float32 products about 45 times
faster. Apple and CUDA builds have their own kernels and need none of this.
"""

import ctypes
import os
import sys
import sysconfig
import tempfile
from contextlib import suppress
from pathlib import Path

_GFORTRAN = b"libgfortran.so.5\0"


def preload(spare_cores: int = 0, *, num_sharers: int = 1) -> bool:
    """Load OpenBLAS if this is Linux and the wheel is installed; safe to call again.

    Args:
        spare_cores: Cores that its threads leave to others. They spin while they wait for each
            other, so one that finds its core taken slows all of them down several times.
            OPENBLAS_NUM_THREADS, if set, has the last word. Counts at the first call only.
        num_sharers: Processes of this kind that share the cores.

    Returns:
        Whether mlx will use it. False also means that it was not needed.
    """
    library = Path(sysconfig.get_path("purelib"), "cmeel.prefix/lib/libopenblas.so.0")
    if sys.platform != "linux" or not library.exists():
        return False
    num_threads = max(1, len(os.sched_getaffinity(0)) // num_sharers - spare_cores)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(num_threads))
    if _load(library):
        return True
    # The wheel leaves libgfortran to the system; mlx ships one under a name of its own.
    with suppress(OSError, ValueError):
        _load_gfortran_of_mlx(Path(sysconfig.get_path("purelib"), "mlx_cpu.libs"))
    return _load(library)


def one_thread_in_numpy() -> bool:
    """Keep numpy's products in the thread that asks for them; safe to call again.

    numpy has an OpenBLAS of its own, with as many threads as mlx's. Where threads of ours share the
    work, each product would wake those, which then spin beside ours: a small one took 29 ms instead
    of 0.2 on two cores that had other things to do.

    Returns:
        Whether there was something to set.
    """
    folder = Path(sysconfig.get_path("purelib"), "numpy.libs")
    for library in sorted(folder.glob("lib*openblas*.so*")) if sys.platform == "linux" else ():
        with suppress(OSError):
            loaded = ctypes.CDLL(str(library))
            for name in ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_"):
                if hasattr(loaded, name):
                    getattr(loaded, name)(1)
                    return True
    return False


def _load(library: Path) -> bool:
    try:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def _load_gfortran_of_mlx(libraries: Path) -> None:
    """Load mlx's libgfortran under the name that OpenBLAS asks for.

    The loader goes by the name written inside the file, so a copy with that name in it is loaded.
    """
    (quadmath,) = libraries.glob("libquadmath-*.so*")
    (gfortran,) = libraries.glob("libgfortran-*.so*")
    ctypes.CDLL(str(quadmath), mode=ctypes.RTLD_GLOBAL)
    own_name = gfortran.name.encode() + b"\0"
    renamed = gfortran.read_bytes().replace(own_name, _GFORTRAN.ljust(len(own_name), b"\0"))
    with tempfile.NamedTemporaryFile(suffix=".so") as copy:
        copy.write(renamed)
        copy.flush()
        ctypes.CDLL(copy.name, mode=ctypes.RTLD_GLOBAL)
