"""Bounds on what mlx takes of the machine's memory. Engine thread only."""

import os
from typing import Any, cast

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from verse.base_model import BaseModel
from verse_server.config import EngineConfig
from verse_server.engine.kv_budget import KvBudget, room_for_keys_and_values

_CACHE_BYTES = 1 << 30
"""Of freed arrays that mlx keeps for reuse; without a bound they can fill the memory."""


def limit_memory(config: EngineConfig) -> None:
    """Bound mlx's own caches, and leave the wired limit alone if asked to."""
    mx.set_cache_limit(_CACHE_BYTES)
    if not config.wired_limit and mx.metal.is_available():
        mx.set_wired_limit(0)


def kv_budget(config: EngineConfig, base: BaseModel) -> KvBudget:
    """What keys and values may take beside the model, and what one token takes."""
    max_bytes = config.kv_cache_bytes
    if max_bytes is None:
        taken = base.bytes + config.prefix_cache_bytes + _CACHE_BYTES
        max_bytes = room_for_keys_and_values(_memory_bytes(), taken)
    return KvBudget(_bytes_per_token(base), max_bytes)


def _memory_bytes() -> int:
    """What may be used: on Apple what Metal recommends, elsewhere all there is."""
    if mx.metal.is_available():
        info = cast(dict[str, Any], mx.device_info())
        return int(info["max_recommended_working_set_size"])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _bytes_per_token(base: BaseModel) -> int:
    """Measured on one token, because every architecture keeps something else."""
    cache = make_prompt_cache(base.model)
    mx.eval(cast(mx.array, base.model(mx.array([[0]]), cache=cache)))  # pyright: ignore[reportUnknownMemberType]
    # Arrays grow in blocks of tokens; entries without keys do not grow at all.
    keys = [(entry, getattr(entry, "keys", None)) for entry in cache]
    return sum(
        int(entry.nbytes) // array.shape[2] for entry, array in keys if isinstance(array, mx.array)
    )
