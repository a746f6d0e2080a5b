"""mlx's own group, once all ranks have met: the one place that calls `mx.distributed.init`.

mlx waits without end for a rank that does not come to its ring, and for one that stops answering.
Whoever has met before (`meeting.meet`) knows that all are there. What is left is a network that
lets Verse's own port through and not those of mlx: after a time limit the process ends, and its
rank is missed by the others.
"""

import faulthandler
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from verse import openblas
from verse.machines import MachinesError
from verse.machines.ranks import Ranks

if TYPE_CHECKING:
    import mlx.core as mx

_JOIN_SECONDS = 45.0


def join_group(ranks: Ranks, join_seconds: float = _JOIN_SECONDS) -> "mx.distributed.Group | None":
    """Join; all ranks must. None for a process that is alone.

    Collectives block until all ranks have called them, in the same order: evaluate each before the
    next is made. If a rank dies meanwhile, `ranks` ends this process.

    Raises:
        MachinesError: mlx cannot connect the ranks.
    """
    if ranks.launch is None:
        return None
    openblas.preload()
    import mlx.core as mx

    _compile_apart(ranks.rank)
    # mlx holds the interpreter while it connects, so nobody may come late: no watch could run.
    ranks.agree("", "{rank} cannot join.")
    with Path(os.devnull).open("w") as nowhere:
        faulthandler.dump_traceback_later(join_seconds, exit=True, file=nowhere)
        try:
            return mx.distributed.init(strict=True, backend=ranks.launch.backend)
        except RuntimeError as error:
            raise MachinesError(f"mlx could not connect the machines: {error}.") from error
        finally:
            faulthandler.cancel_dump_traceback_later()


def _compile_apart(rank: int) -> None:
    """On a CPU mlx compiles kernels into this folder: ranks of one machine would load halves."""
    folder = Path(tempfile.gettempdir(), f"verse-{os.getuid()}-rank-{rank}")
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ["TMPDIR"] = str(folder)
