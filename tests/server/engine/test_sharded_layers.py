"""Bases whose layers are quantized, or cut in odd ways: shared by ranks, or refused."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.models
import pytest
from mlx.nn.layers import distributed
from mlx_lm import utils as mlx_lm_utils

from tests.server.engine.conftest import build_base, write_adapter
from tests.server.engine.ranked import answers_alone, assert_equal, on_ranks
from verse import base_model
from verse.adapter_files import AdapterFileError, ModuleShape
from verse.base_model import BaseModelError, linear_layers, linear_shapes
from verse_server.engine.adapters.shards import FUSED_LAYERS, ShardedBank, ShardedLayers
from verse_server.engine.sharding import ModelShard

KINDS = {"lora": "lora", "lora-2": "lora", "dora": "dora"}
MODELS = ["base", *KINDS, "lora:0.5+lora-2:0.3", "base"]
ROUNDS: list[list[dict[str, Any]]] = [
    [{"model": model, "max_tokens": 6 + 3 * i} for i, model in enumerate(MODELS)]
]


def _bits(path: str, _module: nn.Module) -> dict[str, int]:
    return {"group_size": 32, "bits": 8 if "attn" in path else 4}


def quantized(folder: Path) -> Path:
    """Attention in 8 bits, the rest in 4, with heads for four ranks."""
    plain = build_base(
        *(folder / "plain", 3), hidden_size=128, intermediate_size=256, num_key_value_heads=4
    )
    model, config = mlx_lm_utils.load_model(plain)
    model, config = cast(Any, mlx_lm_utils).quantize_model(
        model, config, 32, 4, quant_predicate=_bits
    )
    made = folder / "quantized"
    mlx_lm_utils.save_model(made, model)
    mlx_lm_utils.save_config(config, made / "config.json")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (plain / file).rename(made / file)
    return made


@pytest.mark.parametrize(
    "num_ranks",
    [pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.network)],
)
def test_ranks_of_a_quantized_base_write_what_one_process_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_ranks: int
) -> None:
    model, adapters = quantized(tmp_path), tmp_path / "adapters"
    for seed, (name, kind) in enumerate(KINDS.items()):
        write_adapter(tmp_path / "plain", adapters / name, seed=seed, kind=kind)
    monkeypatch.setattr(base_model, "MEMORY_SHARE", 0.0)  # else all becomes float32 here
    wanted = answers_alone(model, adapters, ROUNDS)
    assert not [answer.error for answer in wanted if answer.error]
    found = on_ranks(num_ranks, model, adapters, ROUNDS, as_stored=True)
    assert_equal(found, wanted, ROUNDS)


class Group:
    """As far as sizes go."""

    def __init__(self, size: int) -> None:
        self._size = size

    def size(self) -> int:
        return self._size

    def rank(self) -> int:
        return 0


def test_groups_of_quantized_inputs_that_do_not_come_out_even_are_told(tmp_path: Path) -> None:
    model, config = mlx_lm_utils.load_model(build_base(tmp_path / "plain", 3), lazy=True)
    nn.quantize(model, group_size=32, bits=4)
    config["quantization"] = {"group_size": 32, "bits": 4}
    with pytest.raises(BaseModelError, match=r"in groups of 32 of inputs, .* to 2 ranks; start"):
        ModelShard(cast(Any, Group(2))).split(model, config)


def test_layers_that_mlx_lm_fuses_are_known_by_name() -> None:
    """A cut of several matrices in one says so by `segments`, which no layer keeps."""
    (models,) = cast(ModuleType, mlx_lm.models).__path__
    cuts = re.compile(r"shard_linear\(\s*[\w.]*?(\w+),\s*[^()]*segments=")
    sources = [file.read_text("utf-8") for file in Path(models).glob("*.py")]
    assert {name for source in sources for name in cuts.findall(source)} == FUSED_LAYERS


def odd_layers(group: Group) -> tuple[nn.Module, dict[str, ModuleShape]]:
    """One layer of each way of cutting, as mlx leaves them on rank 0."""
    model = nn.Module()
    names = ("q_proj", "o_proj", "qkv_proj", "shared_gate", "router")
    layers = {name: nn.Linear(8, 24, bias=False) for name in names}
    for name, layer in layers.items():
        setattr(model, name, layer)
    shapes = linear_shapes(linear_layers(model))
    shard = cast(Any, distributed)
    cut = {
        "q_proj": shard.shard_linear(layers["q_proj"], "all-to-sharded", group=group),
        "o_proj": shard.shard_linear(layers["o_proj"], "sharded-to-all", group=group),
        "qkv_proj": shard.shard_linear(
            layers["qkv_proj"], "all-to-sharded", segments=3, group=group
        ),
    }
    shard.shard_inplace(layers["shared_gate"], "all-to-sharded", group=group)
    model.update_modules(cut)
    return model, shapes


class Untouched:
    """A reader of an adapter that nobody is to read."""

    def factors(self, path: str) -> object:
        raise AssertionError(path)


def test_an_adapter_of_a_layer_that_is_cut_in_another_way_is_refused() -> None:
    group = Group(2)
    model, shapes = odd_layers(group)
    layers = ShardedLayers.find(model, shapes, 2)
    assert layers.refused == {"qkv_proj", "shared_gate"}
    assert layers.splits["q_proj"] == "outputs"
    assert layers.splits["o_proj"] == "inputs"
    assert layers.splits["router"] == "whole"
    bank = ShardedBank(model, mx.float32, layers, cast(Any, group))
    with pytest.raises(AdapterFileError, match="it changes qkv_proj, which mlx-lm deals out"):
        bank.load_module(1, "qkv_proj", cast(Any, Untouched()))
