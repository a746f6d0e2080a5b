"""mlx's own group, once all ranks have met: the one place that calls `mx.distributed.init`.

mlx waits without end for a rank that does not come to its ring, and for one that stops answering.
Whoever has met before (`meeting.meet`) knows that all are there; `check_ring`, that all have the
same addresses and that no network keeps them apart there. Whatever is left ends after a time limit:
the process ends, and its rank is missed by the others.
"""

import faulthandler
import os
import socket
import stat
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from verse import openblas
from verse.machines import MachinesError
from verse.machines.launch import Launch
from verse.machines.meeting import listen_at, reason_of
from verse.machines.ranks import Ranks, capitalised

if TYPE_CHECKING:
    import mlx.core as mx

_JOIN_SECONDS = 45.0
_REACH_SECONDS = 5.0


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

    # On a CPU mlx compiles kernels there, and ranks of one machine would load each other's halves.
    os.environ["TMPDIR"] = str(kernel_folder(ranks.rank))
    check_ring(ranks, ranks.launch)
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


def check_ring(ranks: Ranks, launch: Launch) -> None:
    """See that each rank reaches the next one where mlx's ring will. All ranks must.

    Other backends have no ports that are known, and pass.

    Raises:
        MachinesError: on rank 0, which ends the others; they never return from here.
    """
    ranks.agree(
        "; ".join(", ".join(map(str, of_rank)) for of_rank in launch.addresses),
        "{rank} has other addresses than rank 0 ({theirs} for {ours}): give all the same hostfile.",
    )
    if not launch.addresses:
        return
    with ExitStack() as stack:
        for address in launch.addresses[launch.rank]:
            stack.enter_context(listen_at(address, launch.size))
        ranks.agree("", "{rank} cannot join.")  # all listen
        found = ranks.gather(_problem_of_next(launch).encode())
        if problem := next(filter(None, found), b""):
            raise MachinesError(problem.decode())
        ranks.broadcast(b"")


def _problem_of_next(launch: Launch) -> str:
    """Why the next rank is not reached, in a sentence; empty if it is."""
    following = (launch.rank + 1) % launch.size
    for address in launch.addresses[following]:
        try:
            # Nobody takes the call; the kernel of a machine that listens answers it.
            socket.create_connection((address.host, address.port), _REACH_SECONDS).close()
        except OSError as error:
            return (
                f"{capitalised(launch.describe(launch.rank))} cannot reach "
                f"{launch.describe(following)} at {address} ({reason_of(error)}): let that port "
                "through, or give another --starting-port."
            )
    return ""


def kernel_folder(rank: int) -> Path:
    """A folder that is this rank's and nobody else can write to: what lies in it is run.

    The same one at each start, so that nothing is compiled twice, unless somebody else has put
    something in its place.
    """
    folder = Path(tempfile.gettempdir(), f"verse-{os.getuid()}-rank-{rank}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    is_private = stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077
    if is_private and found.st_uid == os.getuid():
        return folder
    return Path(tempfile.mkdtemp(prefix=f"verse-rank-{rank}-"))
