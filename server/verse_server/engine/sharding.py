"""A base model that several processes compute together: split by mlx-lm, and the rest by us.

mlx-lm's own `shard` deals out the layers: heads and hidden units, one all-reduce after attention
and one after the feed-forward part. What it leaves whole on every rank is the vocabulary, half of a
small model. It is dealt out here as others do, by tokens: each rank looks up those it has, and
computes the logits of those. Models that mlx-lm can only pipeline have whole layers dealt out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.nn.layers import distributed

from verse.adapter_digest import base_digest
from verse.adapter_files import ModuleShape
from verse.base_model import (
    BaseModel,
    BaseModelError,
    linear_layers,
    linear_shapes,
    load_base_model,
    model_folder,
)
from verse.machines.ranks import Ranks
from verse.terminal import counted
from verse_server.config import EngineConfig
from verse_server.engine.adapters.shards import ShardedLayers

_split_linear = cast(Any, distributed).shard_linear
_split_inplace = cast(Any, distributed).shard_inplace

_PLAIN_HEADS = {"llama", "qwen2", "qwen3", "qwen3_moe"}
"""Models that return the product of their head as it is, and look tokens up once."""


class ModelShard:
    """One rank's part of a model. Satisfies `base_model.Shard`."""

    def __init__(self, group: mx.distributed.Group, *, pipeline: bool = False) -> None:
        """Of a group's rank.

        Args:
            group: mlx's own, of all ranks.
            pipeline: Deal out whole layers.
        """
        self.group = group
        self.pipeline = pipeline
        self._shapes: dict[str, ModuleShape] = {}

    @property
    def num_parts(self) -> int:
        """As many as there are ranks."""
        return self.group.size()

    def split(self, model: nn.Module, config: dict[str, Any]) -> nn.Module:
        """See `base_model.Shard`."""
        kind = str(config.get("model_type"))
        self._shapes = linear_shapes(linear_layers(model))
        try:
            if self.pipeline:
                _pipeline(model, kind, self.group)
            else:
                _check_sizes(config, self.num_parts)
                _shard(model, kind, self.group)
        except ValueError as error:
            _refuse_broken_groups(error, config, self.num_parts)
            raise BaseModelError(
                f"The model cannot be split among {self.num_parts} ranks: {error} "
                "Start with another number of ranks."
            ) from error
        return model

    def layers_of(self, model: nn.Module) -> ShardedLayers:
        """The layers that adapters may change, after `split`."""
        return ShardedLayers.find(model, self._shapes, self.num_parts)


@dataclass(frozen=True)
class RankPart:
    """What one rank has of a base."""

    base: BaseModel
    layers: ShardedLayers


def load_part(
    config: EngineConfig,
    ranks: Ranks,
    group: mx.distributed.Group,
    on_progress: Callable[[float], None] = lambda _share: None,
) -> RankPart:
    """Load this rank's part of the model, once all ranks have the same.

    Raises:
        BaseModelError: it cannot be loaded, or not be split so.
        MachinesError: another rank has another model.
    """
    ranks.agree(
        base_digest(model_folder(config.model)),
        "{rank} has another model under this name than rank 0: copy the folder there.",
    )
    ranks.agree(
        str(config.pipeline), "{rank} was started in another way: give all the same options."
    )
    shard = ModelShard(group, pipeline=config.pipeline)
    base = load_base_model(config.model, on_progress, shard=shard)
    return RankPart(base, shard.layers_of(base.model))


def _pipeline(model: Any, kind: str, group: mx.distributed.Group) -> None:
    inner = cast(Any, getattr(model, "model", None))
    if not hasattr(inner, "pipeline"):
        raise BaseModelError(
            f"mlx-lm cannot pipeline models of the type {kind}; leave --pipeline out."
        )
    if len(inner.layers) < group.size():
        layers = counted(len(inner.layers), "layer")
        raise BaseModelError(
            f"The model has {layers}, too few for {group.size()} ranks; start fewer."
        )
    inner.pipeline(group)


def _shard(model: Any, kind: str, group: mx.distributed.Group) -> None:
    if not hasattr(model, "shard"):
        can_pipeline = hasattr(getattr(model, "model", None), "pipeline")
        advice = "add --pipeline." if can_pipeline else "serve it on one machine."
        raise BaseModelError(f"mlx-lm cannot shard models of the type {kind}; {advice}")
    model.shard(group)
    if kind in _PLAIN_HEADS:
        _shard_vocabulary(model, group)


def _shard_vocabulary(model: Any, group: mx.distributed.Group) -> None:
    embedding = model.model.embed_tokens
    if embedding["weight"].shape[0] % group.size():
        return
    model.model.embed_tokens = ShardedEmbedding(embedding, group)
    head = getattr(model, "lm_head", None)
    # An adapter may change a head of its own, so it stays a layer that can be found.
    if head is not None:
        model.lm_head = ShardedHead(_split_linear(head, "all-to-sharded", group=group), group)


_SIZES = {
    "num_attention_heads": "attention heads",
    "num_key_value_heads": "key and value heads",
    "intermediate_size": "hidden units",
}


def _check_sizes(config: dict[str, Any], num_ranks: int) -> None:
    """What is dealt out must come out even: mlx-lm halves 7 heads without a word.

    Raises:
        BaseModelError: it does not; with the numbers.
    """
    nested = cast(dict[str, Any], config.get("text_config") or {})
    found = {**config, **nested}
    for name, words in _SIZES.items():
        count = found.get(name)
        if isinstance(count, int) and count % num_ranks:
            raise BaseModelError(
                f"The model has {count} {words}, which cannot be dealt out evenly to {num_ranks} "
                f"ranks; start a number of ranks that divides {count}."
            )


def _refuse_broken_groups(error: ValueError, config: dict[str, Any], num_ranks: int) -> None:
    """What mlx says where the inputs of a quantized layer do not come out even has no way out.

    Raises:
        BaseModelError: that is what it said.
    """
    if "quantiz" in str(error):
        size = cast(dict[str, Any], config.get("quantization") or {}).get("group_size")
        groups = f"groups of {size}" if size else "groups"
        raise BaseModelError(
            f"The model is quantized in {groups} of inputs, which cannot be dealt out whole to "
            f"{num_ranks} ranks; start another number of ranks, or quantize it with a smaller "
            "--q-group-size."
        ) from error


def _by_rows(_path: str, _weight: object) -> int:
    return 0


class ShardedEmbedding(nn.Module):
    """The rows of an embedding that are of this rank's tokens; and the head, where it is tied."""

    def __init__(self, embedding: nn.Module, group: mx.distributed.Group) -> None:
        """Take over a whole embedding, quantized or not."""
        super().__init__()
        _split_inplace(embedding, _by_rows, group=group)
        self.rows = embedding
        self._group = group
        self._num_rows = cast(mx.array, embedding["weight"]).shape[0]

    def __call__(self, tokens: mx.array) -> mx.array:
        """(batch, seq) ids -> (batch, seq, dims)."""
        own = tokens.astype(mx.int32) - self._group.rank() * self._num_rows
        is_here = (own >= 0) & (own < self._num_rows)
        found = cast(Any, self.rows)(mx.where(is_here, own, 0))
        found = mx.where(is_here[..., None], found, mx.zeros((), found.dtype))
        return mx.distributed.all_sum(found, group=self._group)

    def as_linear(self, x: mx.array) -> "ShardedLogits":
        """The head, where it is tied to the embedding."""
        return ShardedLogits(cast(Any, self.rows).as_linear, x, self._group)


class ShardedHead(nn.Module):
    """The rows of an output layer that belong to this rank's tokens."""

    def __init__(self, linear: nn.Module, group: mx.distributed.Group) -> None:
        super().__init__()
        self.linear = linear
        self._group = group

    def __call__(self, x: mx.array) -> "ShardedLogits":
        """(batch, seq, dims) -> (batch, seq, vocab)."""
        return ShardedLogits(self.linear, x, self._group)


class ShardedLogits:
    """(batch, seq, vocab) that are computed and gathered only where somebody looks.

    Of a prompt nobody needs any but the last token's, and they are more than all else that ranks
    send each other. Every rank must look, and at the same.
    """

    def __init__(self, head: Any, hidden: mx.array, group: mx.distributed.Group) -> None:
        self._head = head
        self._hidden = hidden
        self._group = group

    def __getitem__(self, index: Any) -> mx.array:
        """Those of some rows, `[a:b]`, or of one place in them, `[a:b, i]`."""
        match index:
            case slice():
                return self._gathered(self._hidden[index])
            case (slice(), int() as place):
                place %= self._hidden.shape[1]
                return self._gathered(self._hidden[index[0], place : place + 1])[:, 0]
            case _:
                raise TypeError(f"cannot look at {index!r} of sharded logits")

    def _gathered(self, hidden: mx.array) -> mx.array:
        parts = mx.distributed.all_gather(self._head(hidden), group=self._group)
        return mx.concatenate([*mx.split(parts, self._group.size())], axis=-1)
