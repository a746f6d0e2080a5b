"""A model's weights packed, layer by layer, each original freed before the next is read.

How they are kept is asked for, or chosen by what fits and what is faster here.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from verse.cpu_weights.decoder import Forward, HostDecoderLayer
from verse.cpu_weights.huge_pages import put_into_huge_pages
from verse.cpu_weights.integer_product import give_back_memory, numkong
from verse.cpu_weights.layers import (
    CHUNK_NUMBERS,
    CannotRepackError,
    HostNorm,
    PackedLinear,
    check_can_be_repacked,
    is_quantized,
    rows_of,
    shape_of,
)
from verse.cpu_weights.model_ends import (
    EmbeddingFile,
    EmbeddingTable,
    PackedEmbedding,
    PackedHead,
)
from verse.cpu_weights.packed import Host, PackedKind, quantized_chunks
from verse.cpu_weights.packed_mlp import (
    MATRICES,
    MatrixOfMlp,
    MlpNumbers,
    PackedMlp,
    WeightOfMlp,
    can_pack,
)
from verse.cpu_weights.threads import Threads, num_cores
from verse.cpu_weights.weight_cache import KeptMatrix, WeightCache

_ARCHITECTURES = ("qwen2", "qwen3", "llama")
"""mlx-lm's modules whose layers `HostDecoderLayer` stands in for; Mistral is one of Llama's."""
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
_HEAD = "head"
_LEAST_SIZE = 0.01
"""Of a number behind the last norm, as a share of the largest: sizes are guesses."""


def reason_against(model: nn.Module) -> str | None:
    """Why a model cannot be packed; None if it can."""
    module = type(model).__module__.rpartition(".")[2]
    if numkong is None:
        return "the package numkong is not installed"
    if module not in _ARCHITECTURES:
        return f"models of the kind {module} are not packed"
    return None


def check_weights(model: nn.Module) -> None:
    """Whether every layer is of a form that is repacked.

    Raises:
        CannotRepackError: one is not.
    """
    for layer in cast(list[Any], model.modules()):
        check_can_be_repacked(layer)


def num_weights(model: nn.Module) -> int:
    """Numbers in all layers that are packed, the embedding table included."""
    layers = [m for m in cast(list[Any], model.modules()) if _is_matrix(m)]
    return sum(rows * columns for rows, columns in map(shape_of, layers))


def pack_model(
    model: Any,
    folder: Path,
    kind: PackedKind,
    threads: Threads,
    on_progress: Callable[[float], None] = lambda _share: None,
    cache: WeightCache | None = None,
) -> int:
    """Replace what is frozen by what stands in for it; returns the bytes it takes.

    Args:
        model: Lazy: its weights are still on the disk.
        folder: Where they are.
        kind: Of the packed weights. With int8 the projections of attention stay bf16: they are a
            ninth of the weights, and the values are what 8 bits harm most.
        threads: Who multiplies.
        on_progress: Told the share that is packed.
        cache: Of `weight_cache`; what it has is read there, what it lacks is written.
    """
    inner = model.model
    total = num_weights(model)
    done = _pack_ends(model, folder, kind, threads, cache)
    on_progress(done / total)
    num_bytes, forward = _num_bytes(model), Forward(threads)
    mlps = _MlpPacker(kind, threads, cache)
    for index, layer in enumerate(inner.layers):
        for name in _PROJECTIONS:
            layer.self_attn[name] = PackedLinear.of(layer.self_attn[name], "bf16", threads)
        mlp = mlps.pack(layer, index)
        for packed in _packed_linears(layer):
            done += packed.matrix.out_dims * packed.matrix.in_dims
            num_bytes += packed.num_bytes
        inner.layers[index] = HostDecoderLayer(
            layer,
            threads,
            forward,
            mlp,
            index=index,
            is_last=index == len(inner.layers) - 1,
        )
        mx.clear_cache()
        give_back_memory()
        on_progress(min(1.0, done / total))
    inner.norm = HostNorm(inner.norm)
    if total > _SMALL_WEIGHTS:
        put_into_huge_pages()
    return num_bytes


class _MlpPacker:
    """Packs one MLP after the other, those in 8 bits through one memory."""

    def __init__(self, kind: PackedKind, threads: Threads, cache: WeightCache | None) -> None:
        self._kind: PackedKind = kind
        self._threads = threads
        self._cache = cache
        self._numbers: MlpNumbers | None = None

    def pack(self, layer: Any, index: int) -> PackedMlp | None:
        """Pack each of its matrices, or in 8 bits all together where that goes."""
        mlp, cache = layer.mlp, self._cache
        dims, width = shape_of(mlp.down_proj)
        has_bias = any("bias" in mlp[name] for name in MATRICES)
        at_once = self._kind == "int8" and not has_bias and can_pack(dims, width)
        if at_once and self._numbers is None:
            self._numbers = MlpNumbers(dims, width, self._threads.num_threads)
        for name in MATRICES:
            kept = None if cache is None else cache.matrix(f"{index}.{name}")
            mlp[name] = self._packed(name, mlp[name], kept, self._numbers if at_once else None)
        if not at_once or self._numbers is None:
            return None
        norm = HostNorm(layer.post_attention_layernorm).numbers
        return PackedMlp(self._numbers, norm, self._threads)

    def _packed(
        self, name: MatrixOfMlp, linear: Any, kept: KeptMatrix | None, numbers: MlpNumbers | None
    ) -> PackedLinear:
        if numbers is None:
            return PackedLinear.of(linear, self._kind, self._threads, kept)
        keep = None if kept is None else kept.write
        for first, rows in quantized_chunks(rows_of(linear, kept), self._threads, keep):
            numbers.take(name, first, rows)
        return PackedLinear(WeightOfMlp(shape_of(linear)), None, self._threads)


def _packed_linears(layer: Any) -> list[PackedLinear]:
    of_layer = [layer.self_attn[name] for name in _PROJECTIONS]
    return of_layer + [layer.mlp[name] for name in MATRICES]


def weight_cache(model: Any, folder: Path, caches: Path) -> WeightCache | None:
    """Where a model's weights in 8 bits are kept; None for a small one, soon packed anew.

    Args:
        model: Lazy.
        folder: Where its weights are.
        caches: Where such files are.
    """
    if num_weights(model) <= _SMALL_WEIGHTS:
        return None
    is_tied = "lm_head" not in model
    shapes = {_HEAD: shape_of(model.model.embed_tokens if is_tied else model.lm_head)}
    for index, layer in enumerate(model.model.layers):
        shapes |= {f"{index}.{name}": shape_of(layer.mlp[name]) for name in MATRICES}
    return WeightCache.of(caches, folder, shapes, CHUNK_NUMBERS)


def _pack_ends(
    model: Any, folder: Path, kind: PackedKind, threads: Threads, cache: WeightCache | None
) -> int:
    """The embedding table and the head; how many numbers they have."""
    embedding = model.model.embed_tokens
    rows, columns = shape_of(embedding)
    is_tied = "lm_head" not in model
    table = EmbeddingFile.find(folder, embedding) or EmbeddingTable(embedding)
    kept = None if cache is None else cache.matrix(_HEAD)
    of_head = embedding if is_tied else model.lm_head
    exact = table if is_tied else EmbeddingFile.find(folder, of_head, "lm_head")
    scales = head_scales(model) if kind == "int8" else None
    packed = PackedLinear.of(of_head, kind, threads, kept, scales)
    head = PackedHead(packed, exact if kind == "int8" else None, scales)
    model.model.embed_tokens = PackedEmbedding(table, head if is_tied else None)
    if not is_tied:
        model.lm_head = head
    mx.clear_cache()
    return rows * columns * (1 if is_tied else 2)


def head_scales(model: Any) -> Host:
    """By what each column of the head is multiplied before it is rounded, and its number divided.

    Some numbers behind the last norm are twenty times the others, and so is in the logits the
    error of the weights they meet; with the root of their size as the scale both sides share it.
    How large they are is guessed from the norm's weight.
    """
    sizes = np.abs(HostNorm(model.model.norm).numbers[0])
    shares = sizes / np.float32(sizes.max() or 1)
    return np.sqrt(shares + np.float32(_LEAST_SIZE))


def _num_bytes(model: Any) -> int:
    ends = [model.model.embed_tokens, model.get("lm_head")]
    return sum(end.num_bytes for end in ends if end is not None)


def _is_matrix(layer: Any) -> bool:
    return isinstance(layer, nn.Linear | nn.Embedding) or is_quantized(layer)


CpuWeights = Literal["auto", "bf16", "int8", "float32"]

MEMORY_SHARE = 0.6
"""Of the machine's memory, for weights; the rest is for the KV cache and the system."""
_BYTES: dict[str, float] = {"bf16": 2.03, "int8": 1.15, "float32": 4.0}
"""Of one weight; int8 has a part in bf16."""
_SMALL_WEIGHTS = 64_000_000
"""Of a model this small the layers take less than what lies between them on the host. Packed, one
of 10 million weights takes three quarters of the time: not worth giving up mlx-lm's own tokens."""
_TRIED_WEIGHTS = 64_000_000
"""Models with larger layers are not tried: float32 is never faster for them, and it takes long."""
_TRIED_VOCAB = 256
_TRIED_ROWS = 8
_TRIED_TOKENS = 32
"""Of each row, before the steps that are timed."""
_TRIES = 5
_WORTH_IT = 1.5
"""So much faster fewer threads have to be: who runs beside the start is gone an hour later."""


class CpuWeightsError(Exception):
    """What was asked for cannot be had; one sentence that says what to do."""


@dataclass(frozen=True)
class WeightsChoice:
    """How the weights are kept."""

    kind: PackedKind | None
    """None: by mlx, as float32 while they fit."""
    threads: Threads
    words: str
    """For the line at the start."""


def choose(model: Any, path: Path, wanted: CpuWeights, memory_bytes: int) -> WeightsChoice:
    """Choose for a model that has been loaded lazily.

    Raises:
        CpuWeightsError: what is wanted does not go, or the memory holds no form of the weights.
    """
    if wanted == "float32":
        return WeightsChoice(None, Threads(1), "float32")
    against = reason_against(model)
    if against is None:
        try:
            check_weights(model)
        except CannotRepackError as error:
            against = f"{error} cannot be repacked"
    if wanted != "auto":
        if against is not None:
            raise CpuWeightsError(
                f"The model in {path} cannot be served with --cpu-weights {wanted}: {against}. "
                "Leave the option out."
            )
        _refuse_too_large(path, num_weights(model), wanted, memory_bytes)
        return _packed(wanted, "as asked")
    count = num_weights(model)
    if against is not None:
        if sys.platform == "linux":
            _refuse_too_large(path, count, None, memory_bytes, against)
        return WeightsChoice(None, Threads(1), f"float32, because {against}")
    return _fastest(model, path, count, memory_bytes)


def _fastest(model: Any, path: Path, count: int, memory_bytes: int) -> WeightsChoice:
    room = MEMORY_SHARE * memory_bytes
    if count * _BYTES["bf16"] > room:
        _refuse_too_large(path, count, "int8", memory_bytes)
        return _packed("int8", "because bf16 does not fit into this machine's memory")
    if count <= _SMALL_WEIGHTS:
        return WeightsChoice(None, Threads(1), "float32, the fastest for a small model")
    if _layer_weights(model) > _TRIED_WEIGHTS:
        return _packed("bf16", "the fastest for a large model")
    layer, threads = _one_layer(model), Threads(1)
    pack_model(layer, Path(), "bf16", threads)
    if count * _BYTES["float32"] <= room:
        # Of the processor and not of the clock, so that whatever else runs now changes nothing.
        seconds = _seconds_of_step(_one_layer(model), time.process_time)
        if seconds < _seconds_of_step(layer, time.process_time):
            return WeightsChoice(None, Threads(1), "float32, the fastest here")
    return _packed("bf16", "the fastest here", fastest_threads(model))


def fastest_threads(model: Any) -> int:
    """As many as there are cores, unless fewer are clearly faster."""
    layer, threads = _one_layer(model), Threads(num_cores())
    pack_model(layer, Path(), "bf16", threads)
    seconds: dict[int, float] = {}
    for num_threads in sorted({threads.num_threads, max(1, threads.num_threads - 1), 1}):
        threads.num_threads = num_threads
        seconds[num_threads] = _seconds_of_step(layer, time.perf_counter)
    most = max(seconds)
    fastest = min(seconds, key=lambda num_threads: seconds[num_threads])
    return fastest if seconds[fastest] * _WORTH_IT < seconds[most] else most


def _one_layer(model: Any) -> Any:
    """A model with one layer of the same shape, its weights zeros."""
    changes: dict[str, Any] = {"num_hidden_layers": 1, "vocab_size": _TRIED_VOCAB}
    if getattr(model.args, "layer_types", None):
        changes["layer_types"] = ["full_attention"]
    layer = type(model)(replace(model.args, **changes))
    for module in cast(list[Any], layer.modules()):
        for name, value in list(module.items()):
            if isinstance(value, mx.array):
                module[name] = mx.zeros(value.shape)
    return layer


def _layer_weights(model: Any) -> int:
    layers = [m for m in cast(list[Any], model.model.layers[0].modules()) if _is_matrix(m)]
    return sum(rows * columns for rows, columns in map(shape_of, layers))


def _seconds_of_step(model: Any, clock: Callable[[], float]) -> float:
    """The shortest of some steps of a batch."""
    cache = make_prompt_cache(model)

    def step(num_tokens: int) -> None:
        tokens = mx.zeros((_TRIED_ROWS, num_tokens), mx.int32)
        mx.eval(model(tokens, cache=cache)[:, -1])  # pyright: ignore[reportUnknownMemberType]

    step(_TRIED_TOKENS)
    times: list[float] = []
    for _ in range(_TRIES):
        begun = clock()
        step(1)
        times.append(clock() - begun)
    return min(times)


def _packed(kind: PackedKind, why: str, num_threads: int | None = None) -> WeightsChoice:
    threads = Threads(num_threads or num_cores())
    plural = "" if threads.num_threads == 1 else "s"
    return WeightsChoice(kind, threads, f"{kind}, {why}, in {threads.num_threads} thread{plural}")


def _refuse_too_large(
    path: Path, count: int, kind: PackedKind | None, memory_bytes: int, against: str = ""
) -> None:
    num_bytes = count * _BYTES[kind or "int8"]
    if num_bytes <= memory_bytes * (1 if kind is None else 0.9):
        return
    reason = f" ({against})" if against else ""
    raise CpuWeightsError(
        f"The weights of {path} take {num_bytes / 1e9:.1f} GB as {kind or 'int8'}, and this "
        f"machine has {memory_bytes / 1e9:.1f} GB{reason}; take a smaller model."
    )
