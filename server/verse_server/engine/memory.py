"""Bounds on what mlx takes of the machine's memory, and how much of it keys and values may have.

A batch pads its rows to the longest one and has a few slots to spare, so what it takes is slots x
longest x bytes of a token; and while it grows or shrinks, the old and the new arrays are there
together.
"""

import ctypes
import gc
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, cast

import mlx.core as mx
import msgspec
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import maybe_set_recommended_wired_limit

from verse.adapter_files import ModuleShape
from verse.base_model import BaseModel, runs_on_cpu
from verse_server.config import EngineConfig
from verse_server.engine.adapters.limits import AdapterLimits, rank_class
from verse_server.engine.kv_cache import num_slots_for

_COPIES = 2


class KvBudget(msgspec.Struct, frozen=True):
    """The room there is."""

    bytes_per_token: int
    """Keys and values of one token in all layers."""
    max_bytes: int

    def holds(self, lengths: Collection[int]) -> bool:
        """Whether rows of these lengths, prompt and longest answer together, fit at once."""
        return self.bytes_of(lengths) <= self.max_bytes

    def bytes_of(self, lengths: Collection[int]) -> int:
        """What such rows take at most."""
        slots = num_slots_for(len(lengths))
        return _COPIES * slots * max(lengths, default=0) * self.bytes_per_token

    def longest(self, num_rows: int) -> int:
        """Tokens of each of so many rows, when nothing else runs and they are as long as can be."""
        return self.max_bytes // (_COPIES * num_slots_for(num_rows) * max(1, self.bytes_per_token))


def room_for_keys_and_values(memory_bytes: int, taken_bytes: int) -> int:
    """What a machine's memory leaves beside the model; a tenth stays for everything else."""
    return max(0, memory_bytes * 9 // 10 - taken_bytes)


_CACHE_BYTES = 1 << 30
"""Of freed arrays that mlx keeps for reuse; without a bound they can fill the memory."""

_HOST_CACHE_BYTES = 64 << 20
"""The same on a CPU, where new memory costs little beside what fills it: what a forward frees.
Keys and values that are freed when rows leave are of sizes that nobody asks for again."""

_PACKED_CACHE_BYTES = 8 << 20
"""The same where the host multiplies: of mlx there are only keys and values."""


def limit_memory(config: EngineConfig, *, is_packed: bool = False, num_ranks: int = 1) -> None:
    """Bound mlx's own caches, and wire what Metal recommends unless asked not to.

    Args:
        config: Of the server.
        is_packed: Whether the host multiplies.
        num_ranks: Each computes its part of every array.
    """
    host_bytes = _PACKED_CACHE_BYTES if is_packed else _HOST_CACHE_BYTES // num_ranks
    mx.set_cache_limit(host_bytes if runs_on_cpu() else _CACHE_BYTES)
    _trim()  # what loading has left
    if not mx.metal.is_available():
        return
    if config.wired_limit:
        maybe_set_recommended_wired_limit()
    else:
        mx.set_wired_limit(0)


def set_up_heap() -> None:
    """Before anything is loaded: what is freed early leaves the gaps that stay."""
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_ARENA_MAX, _NUM_ARENAS)
        if runs_on_cpu():
            libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
            libc.mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)


def give_memory_back() -> None:
    """What is freed and kept for reuse goes back to the system; nothing may run meanwhile."""
    gc.collect()
    _trim()


def _trim() -> None:
    mx.clear_cache()
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


_M_ARENA_MAX = -8
_NUM_ARENAS = 2
"""Of glibc's heaps; by default each thread may get one, and keeps what was once freed there."""

_M_MMAP_THRESHOLD = -3
_LARGEST_KEPT = 5 << 19
"""Of the host's arrays that are freed. Larger ones go back to the system: kept, those of one large
prompt leave gaps that no other fits into. Clearing pages anew costs little beside what fills them.
What a share of a small model's MLP makes of as many rows as it takes at once is just smaller.
"""

_M_TRIM_THRESHOLD = -1
_MOST_KEPT = 32 << 20
"""At the end of a heap. glibc finds about this by itself, but not once the other one is set."""


@lru_cache
def _glibc() -> ctypes.CDLL | None:
    """Where the allocator is glibc's."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        if libc.malloc_trim and libc.mallopt:
            return libc
    return None


def adapter_budget(
    config: EngineConfig, base: BaseModel, shapes: Mapping[str, ModuleShape]
) -> AdapterLimits:
    """How large an adapter may be, and what all in memory may take together.

    As much as full slots of the largest rank need, but no more than a quarter of what the model
    leaves: the rest is for keys and values.
    """
    bytes_per_number = mx.array(0, dtype=base.dtype).nbytes
    max_bytes = config.adapter_bytes
    if max_bytes is None:
        sizes = sum(shape.in_dims + shape.out_dims for shape in shapes.values())
        most = config.adapter_slots * rank_class(config.max_rank) * sizes * bytes_per_number
        max_bytes = min(most, _room(config, base) // 4)
    return AdapterLimits(
        max_rank=config.max_rank, max_bytes=max_bytes, bytes_per_number=bytes_per_number
    )


def kv_budget(config: EngineConfig, base: BaseModel, adapter_bytes: int) -> KvBudget:
    """What keys and values may take beside the model and adapters, and what one token takes."""
    max_bytes = config.kv_cache_bytes
    if max_bytes is None:
        max_bytes = max(0, _room(config, base) - adapter_bytes)
    return KvBudget(bytes_per_token(base), max_bytes)


_PREFIX_TOKENS = 6144
"""Some hundred prompts for a poem. More would let the process outgrow a small base many times."""
_MAX_PREFIX_BYTES = 256 << 20


def prefix_cache_bytes(config: EngineConfig, bytes_per_token: int) -> int:
    """What keys and values of prompts seen before may take, of a base whose tokens take so much."""
    if config.prefix_cache_bytes is not None:
        return config.prefix_cache_bytes
    return min(_MAX_PREFIX_BYTES, _PREFIX_TOKENS * bytes_per_token)


def _room(config: EngineConfig, base: BaseModel) -> int:
    prefixes = config.prefix_cache_bytes
    taken = base.bytes + (_MAX_PREFIX_BYTES if prefixes is None else prefixes) + _CACHE_BYTES
    return room_for_keys_and_values(_memory_bytes(), taken)


def _memory_bytes() -> int:
    """What may be used: on Apple what Metal recommends, elsewhere all there is."""
    if mx.metal.is_available():
        info = cast(dict[str, Any], mx.device_info())
        return int(info["max_recommended_working_set_size"])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def bytes_per_token(base: BaseModel) -> int:
    """What keys and values of a token take in all layers, or in those of this rank.

    Measured on one token, because every architecture keeps something else.
    """
    cache = make_prompt_cache(base.model)
    logits = cast(Any, base.model)(mx.array([[0]]), cache=cache)
    mx.eval(logits[:, -1])  # pyright: ignore[reportUnknownMemberType]
    # Arrays grow in blocks of tokens; entries without keys do not grow at all.
    keys = [(entry, getattr(entry, "keys", None)) for entry in cache]
    return sum(
        int(entry.nbytes) // array.shape[2] for entry, array in keys if isinstance(array, mx.array)
    )
