"""mlx's own group, once all ranks have met: the one place that calls `mx.distributed.init`.

mlx waits without end for a rank that does not come to its ring, and for one that stops answering.
Whoever has met before (`meeting.meet`) knows that all are there, so what is left is a network that
lets Verse's own port through and not those of mlx: a time limit tells that.
"""

import os
import tempfile
import threading
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

    sentence = (
        f"The machines did not connect to each other within {join_seconds:.0f} s: let each reach "
        f"the others at the ports that mlx uses{_ports(ranks)}."
    )
    _compile_apart(ranks.rank)
    limit = threading.Timer(join_seconds, ranks.fail, (sentence,))
    limit.daemon = True
    limit.start()
    try:
        return mx.distributed.init(strict=True, backend=ranks.launch.backend)
    except RuntimeError as error:
        raise MachinesError(f"mlx could not connect the machines: {error}.") from error
    finally:
        limit.cancel()


def _compile_apart(rank: int) -> None:
    """On a CPU mlx compiles kernels into this folder: ranks of one machine would load halves."""
    folder = Path(tempfile.gettempdir(), f"verse-{os.getuid()}-rank-{rank}")
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ["TMPDIR"] = str(folder)


def _ports(ranks: Ranks) -> str:
    assert ranks.launch is not None
    ports = sorted({address.port for listed in ranks.launch.addresses for address in listed})
    return f", {ports[0]} to {ports[-1]}" if ports else ""
