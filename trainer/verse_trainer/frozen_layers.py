"""The layers below those that are trained: brought in one after the other, run once, and let go.

A base whose upper 16 of 64 layers are trained needs the other 48 for one pass over the rows. They
are read from their files a layer at a time, so that their sum is never in memory; on a CPU each
becomes float32 for as long as it is used, whatever the base is stored as.
"""

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten  # pyright: ignore[reportUnknownVariableType]
from mlx_lm import utils as mlx_lm_utils

from verse.base_model import BaseModel, load_base_model, runs_on_cpu
from verse.cpu_weights.integer_product import give_back_memory
from verse_trainer.config import TrainConfig
from verse_trainer.decoder import Decoder, is_known
from verse_trainer.gate import gated_at_once
from verse_trainer.lora import count_base_parameters
from verse_trainer.packing import EXACT, lay_out

_FLOAT32_BYTES = 4
_MEMORY_SHARE = 0.6
"""Of the machine's memory, for float32 weights; as in `verse.base_model`."""
_EVAL_BYTES = 256 << 20
_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1
"""glibc's numbers of what `mallopt` sets."""
_LARGEST_KEPT = 32 << 20
"""The most that glibc takes for a threshold; larger arrays still go back to the system."""
_MOST_KEPT = 1 << 30
_FILE_SHARE = 16
_HALF_BITS, _PARTS = 16, 64

Run = Callable[[mx.array, Sequence[int], int], mx.array]


def num_frozen(model: nn.Module, config: TrainConfig) -> tuple[int, str]:
    """How many layers can be computed once and, if none, why: a sentence. Before `lora.adapt`."""
    if not config.layer_cache:
        return 0, "The layer cache is switched off: frozen layers are computed in every step."
    if not is_known(model):
        return 0, "This kind of model has no layer cache: all its layers run in every step."
    total = len(Decoder(model).blocks)
    if not 0 < config.num_layers < total:
        return 0, f"All layers ({total}) are trained, so there is no layer cache; see --num-layers."
    outside = set(config.lora_parameters.keys or ()) & _outside(model)
    if outside and config.fine_tune_type != "full":
        name = min(outside)
        return 0, f"{name} is trained, which all layers depend on, so there is no layer cache."
    return total - config.num_layers, ""


def _outside(model: nn.Module) -> set[str]:
    named = cast(list[tuple[str, nn.Module]], model.named_modules())
    return {name for name, _ in named if name and ".layers." not in name}


def load_for_training(
    config: TrainConfig,
    on_progress: Callable[[float], None] = lambda _share: None,
    *,
    is_whole: bool = False,
) -> BaseModel:
    """Load the base; of layers that are needed once, nothing comes into memory yet.

    Args:
        config: Of the run.
        on_progress: Told the share of bytes in memory.
        is_whole: Bring in every layer all the same.

    Raises:
        BaseModelError: there is no such model, or mlx-lm cannot read it.
    """
    if runs_on_cpu():
        keep_freed_memory()
    trust = config.trust_remote_code
    base = load_base_model(config.model, as_stored=True, trust_remote_code=trust)
    cut, _ = num_frozen(base.model, config)
    if (
        is_whole or not cut or config.sample_every is not None
    ):  # poems are written with the whole model
        return load_base_model(config.model, on_progress, trust_remote_code=trust)
    decoder, dtype = Decoder(base.model), base.dtype
    if runs_on_cpu() and _fit_as_float32(decoder.blocks[cut:]):
        dtype = mx.float32
        for block in decoder.blocks[cut:]:
            _widen(block)
    if runs_on_cpu():
        narrow(decoder.head)  # before the blocks take memory
    resident = [*decoder.blocks[cut:], decoder.head]
    _bring_in([array for module in resident for array in _arrays(module)], on_progress)
    share = _FLOAT32_BYTES if dtype == mx.float32 else 0
    whole = share * count_base_parameters(base.model) or base.bytes
    return replace(base, dtype=dtype, bytes=whole)


class ModelLayers:
    """The first layers of a model, for `LayerCache.fill`."""

    def __init__(self, base: BaseModel, num_layers: int, *, keep: bool) -> None:
        """`keep` leaves the layers where they are, for who needs the whole model later."""
        self._decoder = Decoder(base.model)
        self._dtype, self._num_layers, self._keep = base.dtype, num_layers, keep
        self.on_progress: Callable[[float], None] = lambda _share: None

    def steps(self) -> Iterator[Run]:
        """The embedding, then each layer, which is let go when the next is asked for."""
        yield lambda ids, _lengths, _prefix: self._decoder.embed(ids, self._dtype)
        for number in range(self._num_layers):
            block = self._decoder.blocks[number]
            if self._dtype == mx.float32:
                _widen(block)
            mx.eval(block.parameters())  # pyright: ignore[reportUnknownMemberType]
            running = [block]
            del block
            yield self._runner(running)
            running.clear()  # who ran it still holds the function
            self.on_progress((number + 1) / self._num_layers)
            if not self._keep:
                self._decoder.blocks[number] = nn.Module()
            mx.clear_cache()

    def release(self) -> None:
        """Let everything go that is only needed below the cache."""
        if self._keep:
            return
        for number in range(self._num_layers):
            self._decoder.blocks[number] = nn.Module()
        self._decoder.release_embedding()
        mx.clear_cache()
        give_back_memory()  # of rows and layers that are larger than what a step needs

    def _runner(self, blocks: list[nn.Module]) -> Run:
        def run(states: mx.array, lengths: Sequence[int], prefix: int) -> mx.array:
            layout = lay_out(lengths, prefix, EXACT)
            return self._decoder.run(states, layout, prefix, blocks, gates=gated_at_once)

        return run


def keep_freed_memory() -> bool:
    """Let a step's arrays take the memory of those before; returns whether the system can.

    On a CPU mlx frees each array at once, and glibc gives large ones back to the system, which
    must clear every page anew: a tenth of a step, on one core.
    """
    with suppress(AttributeError, OSError):  # other systems have no mallopt
        mallopt = cast(Callable[[int, int], int], ctypes.CDLL(None).mallopt)
        settings = (
            (_ARENA_MAX, 1),
            (_MMAP_THRESHOLD, _LARGEST_KEPT),
            (_TRIM_THRESHOLD, _MOST_KEPT),
        )
        taken = [mallopt(number, value) for number, value in settings]
        return all(taken)
    return False


def is_small(num_bytes: int) -> bool:
    """Whether so much may stay in this machine's memory for a whole run."""
    return num_bytes * _FILE_SHARE <= _machine_bytes()


def resident_bytes(model: nn.Module, num_frozen: int) -> int:
    """Of the weights that stay once the frozen layers were let go."""
    decoder = Decoder(model)
    kept = [*decoder.blocks[num_frozen:], decoder.head]
    return sum(array.nbytes for module in kept for array in _arrays(module))


def _machine_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def narrow(head: nn.Module) -> None:
    """Keep half of the bytes where the other half is empty, as in a float32 copy of bfloat16."""
    weight = cast(mx.array, cast(Any, head).weight)
    if weight.dtype != mx.float32:
        return
    numbers = cast(Any, np).array(weight, copy=False)
    bits = numbers.view(np.uint32)
    if not any((part.astype(np.uint16)).any() for part in np.array_split(bits, _PARTS)):
        halves = np.empty(bits.shape, np.uint16)
        for part, half in zip(
            np.array_split(bits, _PARTS), np.array_split(halves, _PARTS), strict=True
        ):
            half[:] = part >> _HALF_BITS
        cast(Any, head).weight = mx.array(halves).view(mx.bfloat16)


def _widen(block: nn.Module) -> None:
    """To float32, packed weights too; nothing is computed yet."""
    mlx_lm_utils.dequantize_model(block)
    block.set_dtype(mx.float32)


def _fit_as_float32(blocks: Sequence[nn.Module]) -> bool:
    numbers = sum(count_base_parameters(block) for block in blocks)
    return numbers * _FLOAT32_BYTES <= _MEMORY_SHARE * _machine_bytes()


def _bring_in(arrays: Sequence[mx.array], on_progress: Callable[[float], None]) -> None:
    """Evaluate the lazy weights in chunks."""
    total = sum(array.nbytes for array in arrays)
    chunk: list[mx.array] = []
    done = size = 0
    for array in arrays:
        chunk.append(array)
        size += array.nbytes
        if size >= _EVAL_BYTES:
            mx.eval(chunk)  # pyright: ignore[reportUnknownMemberType]
            done, size, chunk = done + size, 0, []
            on_progress(done / total)
    mx.eval(chunk)  # pyright: ignore[reportUnknownMemberType]
    mx.clear_cache()
    on_progress(1.0)


def _arrays(module: nn.Module) -> list[mx.array]:
    named = cast(list[tuple[str, mx.array]], tree_flatten(module.parameters()))
    return [array for _, array in named]
