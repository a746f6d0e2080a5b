"""Adapters on a model that is split among ranks: each has the part that belongs to its weights.

How a layer is split says how its factors are:

    outputs    its rows are dealt out           A whole          B by columns of outputs
    inputs     its columns are dealt out        A by columns     B whole
    whole      every rank has the layer         A whole          B whole
    nowhere    another rank has it (pipeline)   nothing

What mlx-lm cuts in another way, several matrices in one or in the place where they are, is computed
as it does, and an adapter that changes it is refused.

Where the inputs are split, each rank has a part of the sum, of the adapters' update as of the
layer's own product; one all-reduce sums up both. DoRA's magnitude goes over whole rows of the
weight, so there the ranks sum their squares first. All ranks take in the same modules in the same
order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import mlx.core as mx
import mlx.nn as nn

from verse.adapter_files import AdapterFileError, ModuleShape
from verse.base_model import linear_shapes
from verse_server.engine.adapters.lora import LoraBank, RoutedLinear
from verse_server.engine.adapters.weights import (
    AdapterReader,
    Factors,
    ModuleUpdate,
    are_finite,
    dora_update,
    plain_square,
    plain_update,
)

Split = Literal["whole", "outputs", "inputs"]

SPLIT_LAYERS: dict[type[nn.Module], Split] = {
    nn.AllToShardedLinear: "outputs",
    nn.QuantizedAllToShardedLinear: "outputs",
    nn.ShardedToAllLinear: "inputs",
    nn.QuantizedShardedToAllLinear: "inputs",
    nn.Linear: "whole",
    nn.QuantizedLinear: "whole",
}

FUSED_LAYERS = frozenset({"qkv_proj", "qkvg_proj"})
"""Names of layers in which mlx-lm cuts each of several matrices, so that no rank's part of the
outputs is in one piece."""


@dataclass(frozen=True)
class Part:
    """What one rank has of a layer."""

    split: Split
    rank: int
    size: int

    def cut(self, whole: Factors) -> Factors:
        """Of a layer's factors, those of this part."""
        match self.split:
            case "whole":
                return whole
            case "inputs":
                return replace(whole, a=self._columns(whole.a))
            case "outputs":
                m = None if whole.m is None else self._columns(whole.m[None])[0]
                return replace(whole, b=self._columns(whole.b), m=m)

    def _columns(self, array: mx.array) -> mx.array:
        width = array.shape[1] // self.size
        return array[:, self.rank * width : (self.rank + 1) * width]


@dataclass(frozen=True)
class ShardedLayers:
    """The layers an adapter may change, on one rank.

    Attributes:
        shapes: Of all layers, whole, by path: what adapters are held against.
        linears: Those that this rank has, or a part of.
        splits: Of these.
        places: Where they are in the model.
        refused: Those that are cut in a way no adapter can be.
    """

    shapes: Mapping[str, ModuleShape]
    linears: dict[str, nn.Module]
    splits: Mapping[str, Split]
    places: Mapping[str, str]
    refused: frozenset[str] = frozenset()

    @classmethod
    def find(
        cls, model: nn.Module, shapes: Mapping[str, ModuleShape], num_ranks: int
    ) -> "ShardedLayers":
        """Look for them.

        Args:
            model: Split already.
            shapes: Of its layers before.
            num_ranks: Among how many it was split.
        """
        found: dict[str, nn.Module] = {}
        places: dict[str, str] = {}
        for place, module in cast(list[tuple[str, nn.Module]], model.named_modules()):
            path = place.removesuffix(HEAD_PLACE)
            if type(module) in SPLIT_LAYERS and path in shapes:
                found[path], places[path] = module, place
        splits: dict[str, Split] = {p: SPLIT_LAYERS[type(module)] for p, module in found.items()}
        here = linear_shapes(found)
        refused = {
            path
            for path, split in splits.items()
            if here[path] != _shape_of_part(shapes[path], split, num_ranks)
            or (split == "outputs" and path.rpartition(".")[2] in FUSED_LAYERS)
        }
        return cls(shapes, found, splits, places, frozenset(refused))


def _shape_of_part(whole: ModuleShape, split: Split, num_ranks: int) -> ModuleShape:
    match split:
        case "whole":
            return whole
        case "outputs":
            return ModuleShape(whole.in_dims, whole.out_dims // num_ranks)
        case "inputs":
            return ModuleShape(whole.in_dims // num_ranks, whole.out_dims)


HEAD_PLACE = ".linear"
"""Where an output layer is below the one that gathers its logits."""


class ReducedLinear(RoutedLinear):
    """Where the inputs are split: the layer's product and the updates are summed up together."""

    def __call__(self, x: mx.array) -> mx.array:
        """(batch, seq, part of in_dims) -> (batch, seq, out_dims), of all ranks together."""
        linear = cast(Any, self.linear)
        y = mx.distributed.all_sum(self.updated(x, product(linear, x)), group=linear.group)
        return y + linear["bias"] if "bias" in linear else y


def product(linear: Any, x: mx.array) -> mx.array:
    """What is `x @ weight.T` of this rank's part, without the bias."""
    if "scales" not in linear:
        return x @ linear["weight"].T
    return mx.quantized_matmul(
        x,
        linear["weight"],
        scales=linear["scales"],
        biases=linear.get("biases"),
        transpose=True,
        group_size=linear.group_size,
        bits=linear.bits,
        mode=linear.mode,
    )


class ShardedBank(LoraBank):
    """All resident adapters, as far as this rank's part of the base goes. Engine thread only."""

    def __init__(
        self,
        model: nn.Module,
        dtype: mx.Dtype,
        layers: ShardedLayers,
        group: mx.distributed.Group,
    ) -> None:
        super().__init__(model, dtype)
        self.linears = layers.linears
        self.shapes = dict(layers.shapes)
        self._splits = layers.splits
        self._group = group
        self._local_shapes = linear_shapes(layers.linears)
        self._places = layers.places
        self._refused = layers.refused

    def load_module(self, slot: int, path: str, reader: AdapterReader) -> None:
        """Read one module into a slot, here and on the other ranks.

        Raises:
            AdapterFileError: as for one process; or the layer is cut in a way no adapter can be.
        """
        if path in self._refused:
            raise AdapterFileError(
                f"it changes {path}, which mlx-lm deals out to several ranks in a way that Verse "
                "cannot follow; serve it on one machine"
            )
        square, is_finite = self.take_in(slot, path, reader.factors(path))
        reader.note(square, is_finite=is_finite)

    def take_in(self, slot: int, path: str, whole: Factors) -> tuple[float, bool]:
        """Put this rank's part of a module into a slot, if all of its numbers are finite.

        Every rank must call it, with the same factors.

        Returns:
            The squared norm of the whole delta, and whether it was taken in.
        """
        update, square, share = self._part_of(path, whole)
        bad = mx.array(False) if update is None else mx.logical_not(are_finite(update))
        # A sum that is no number must not reach the count beside it.
        numbers = [mx.nan_to_num(square), bad.astype(mx.float32), mx.array(share)]
        total, num_bad, num_whole = cast(list[float], self._sum(mx.stack(numbers)).tolist())
        if num_bad:
            return 0.0, False
        if update is not None:
            self.write_module(slot, path, update)
        return total / num_whole, True

    def route_layer(self, path: str) -> RoutedLinear:
        """See `LoraBank`."""
        kind = ReducedLinear if self._splits[path] == "inputs" else RoutedLinear
        routed = kind(self.linears[path], self._local_shapes[path], self.dtype)
        return self.put(self._places[path], routed)

    def _part_of(self, path: str, whole: Factors) -> tuple[ModuleUpdate | None, mx.array, float]:
        """This rank's update, the squared norm of its delta, and what part of the whole that is."""
        if path not in self.linears:
            return None, mx.array(0.0), 0.0
        split, size, linear = self._splits[path], self._group.size(), self.linears[path]
        cut = Part(split, self._group.rank(), size).cut(whole)
        if cut.m is None:
            return plain_update(cut, self.dtype), plain_square(whole), 1.0
        if split != "inputs":
            update, square = dora_update(cut, cut.m, linear, self.dtype)
            return update, square, 1.0 if split == "whole" else 1 / size
        update, square = dora_update(cut, cut.m, linear, self.dtype, self._sum)
        # The bias is added after the sum, where no gain has taken anything from it.
        return replace(update, shift=None), square, 1 / size

    def _sum(self, of_rank: mx.array) -> mx.array:
        return mx.distributed.all_sum(of_rank, group=self._group)
