"""A model's weights packed, layer by layer, each original freed before the next is read.

How they are kept is asked for, or chosen by what fits and what is faster here.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from verse.cpu_weights.decoder import Forward, HostDecoderLayer
from verse.cpu_weights.integer_product import give_back_memory, numkong
from verse.cpu_weights.layers import (
    CannotRepackError,
    EmbeddingFile,
    EmbeddingTable,
    HostNorm,
    PackedEmbedding,
    PackedHead,
    PackedLinear,
    check_can_be_repacked,
    is_quantized,
    shape_of,
)
from verse.cpu_weights.packed import PackedKind, PackedWeight
from verse.cpu_weights.threads import Threads, num_cores

_ARCHITECTURES = ("qwen2", "qwen3", "llama")
"""mlx-lm's modules whose layers `HostDecoderLayer` stands in for; Mistral is one of Llama's."""
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
_OF_MLP = ("gate_proj", "up_proj", "down_proj")


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
) -> int:
    """Replace what is frozen by what stands in for it; returns the bytes it takes.

    Args:
        model: Lazy: its weights are still on the disk.
        folder: Where they are.
        kind: Of the packed weights. With int8 the projections of attention stay bf16: they are a
            ninth of the weights, and the values are what 8 bits harm most.
        threads: Who multiplies.
        on_progress: Told the share that is packed.
    """
    inner = model.model
    total = num_weights(model)
    done = _pack_ends(model, folder, kind, threads)
    on_progress(done / total)
    num_bytes, forward = _num_bytes(model), Forward()
    for index, layer in enumerate(inner.layers):
        for owner, names, of_kind in (
            (layer.self_attn, _PROJECTIONS, "bf16"),
            (layer.mlp, _OF_MLP, kind),
        ):
            for name in names:
                packed = PackedLinear.of(owner[name], cast(PackedKind, of_kind), threads)
                owner[name] = packed
                done += packed.matrix.out_dims * packed.matrix.in_dims
                num_bytes += packed.num_bytes
        inner.layers[index] = HostDecoderLayer(
            layer, threads, forward, is_last=index == len(inner.layers) - 1
        )
        mx.clear_cache()
        give_back_memory()
        on_progress(min(1.0, done / total))
    inner.norm = HostNorm(inner.norm)
    return num_bytes


def _pack_ends(model: Any, folder: Path, kind: PackedKind, threads: Threads) -> int:
    """The embedding table and the head; how many numbers they have."""
    embedding = model.model.embed_tokens
    rows, columns = shape_of(embedding)
    is_tied = "lm_head" not in model
    table = EmbeddingFile.find(folder, embedding) or EmbeddingTable(embedding)
    head = PackedLinear.of(embedding, kind, threads) if is_tied else None
    model.model.embed_tokens = PackedEmbedding(table, head)
    if not is_tied:
        model.lm_head = PackedHead(PackedLinear.of(model.lm_head, kind, threads))
    mx.clear_cache()
    return rows * columns * (1 if is_tied else 2)


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
"""Of a model this small the layers take less than what lies between them on the host."""
_TRIED = (2048, 1024)
"""(out_dims, in_dims) of the product that is timed."""
_TRIED_ROWS = 8
_TRIES = 3


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
    return _fastest(path, count, memory_bytes)


def _fastest(path: Path, count: int, memory_bytes: int) -> WeightsChoice:
    if count <= _SMALL_WEIGHTS:
        return WeightsChoice(None, Threads(1), "float32, the fastest for a small model")
    room = MEMORY_SHARE * memory_bytes
    if count * _BYTES["bf16"] > room:
        _refuse_too_large(path, count, "int8", memory_bytes)
        return _packed("int8", "because bf16 does not fit into this machine's memory")
    choice = _packed("bf16", "the fastest here")
    if count * _BYTES["float32"] <= room and _seconds_of_float32() < _seconds_of(choice):
        return WeightsChoice(None, Threads(1), "float32, the fastest here")
    return choice


def _packed(kind: PackedKind, why: str) -> WeightsChoice:
    threads = Threads(num_cores())
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


def _seconds_of(choice: WeightsChoice) -> float:
    rows, weight = _numbers(_TRIED_ROWS), _numbers(_TRIED[0])
    assert choice.kind is not None
    packed = PackedWeight.pack(choice.kind, _TRIED, [weight], choice.threads)
    return _best(lambda: packed.multiplied(rows, choice.threads))


def _seconds_of_float32() -> float:
    rows, weight = mx.array(_numbers(_TRIED_ROWS)), mx.array(_numbers(_TRIED[0]))
    return _best(lambda: mx.eval(rows @ weight.T))  # pyright: ignore[reportUnknownMemberType]


def _numbers(num_rows: int) -> Any:
    return np.random.default_rng(0).standard_normal((num_rows, _TRIED[1]), dtype=np.float32)


def _best(action: Callable[[], Any]) -> float:
    times: list[float] = []
    for _ in range(_TRIES):
        begun = time.perf_counter()
        action()
        times.append(time.perf_counter() - begun)
    return min(times)
