"""Whether a training fits into memory beside the resident base."""

import os
from pathlib import Path

from verse_server.jobs.trainer_process import MemoryFigures

_MEMINFO = Path("/proc/meminfo")
_SPARE_BYTES = 256 << 20
"""For the process itself, before its first array."""


def memory_problem(
    needed: MemoryFigures | None, free_bytes: int, base_bytes: int, *, releases_base: bool
) -> str | None:
    """Why a training cannot run, with the figures; None if it can, or if nobody knows.

    Args:
        needed: The trainer's estimate.
        free_bytes: Of the machine, while the base is resident.
        base_bytes: What the base takes.
        releases_base: Whether the server lets go of the base while it trains.
    """
    if needed is None:
        return None
    total = needed.total_bytes + _SPARE_BYTES
    room = free_bytes + (base_bytes if releases_base else 0)
    if total <= room:
        return None
    parts = (
        f"it needs about {_gigabytes(total)} (weights {_gigabytes(needed.weights_bytes)}, adapter "
        f"and optimizer {_gigabytes(needed.adapter_bytes)}, the batch "
        f"{_gigabytes(needed.activations_bytes + needed.logits_bytes)})"
    )
    if releases_base:
        return (
            f"The training does not fit into memory: {parts}, and {_gigabytes(room)} are free once "
            "the base is released. Use a smaller batch_size, or grad_checkpoint."
        )
    way_out = (
        "start the server with --release-base-while-training, or use"
        if total <= room + base_bytes
        else "use"
    )
    return (
        f"The training does not fit into memory beside the base: {parts}, and {_gigabytes(room)} "
        f"are free; {way_out} a smaller batch_size or grad_checkpoint."
    )


def free_memory_bytes(taken_bytes: int) -> int:
    """What other processes may take now.

    Args:
        taken_bytes: By this one, for systems that do not say what is free.
    """
    try:
        lines = _MEMINFO.read_text().splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return int(kilobytes) * 1024
    except (OSError, StopIteration, ValueError):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return max(0, total * 9 // 10 - taken_bytes)


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB"
