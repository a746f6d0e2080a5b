"""Adapters of different ranks side by side: each takes its own memory, and a batch mixes them."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from verse.adapter_files import plan_adapter
from verse.adapter_folder import read_adapter_folder
from verse.base_model import BaseModel, load_base_model
from verse_server.engine.adapters.limits import AdapterLimits
from verse_server.engine.adapters.lora import LoraBank, SlotWeights
from verse_server.engine.adapters.weights import AdapterWeights, load_weights

RANKS = (3, 8, 12, 40, 64)
KINDS = {1: "dora", 3: "dora"}
"""By slot; all others are plain."""


class Bench:
    def __init__(self, base: Path, folders: list[Path]) -> None:
        self.base: BaseModel = load_base_model(str(base))
        self.bank = LoraBank(self.base.model, self.base.dtype)
        self.weights: list[AdapterWeights] = []
        self.memory_bytes: list[int] = []
        for folder in map(read_adapter_folder, folders):
            assert folder.published is not None
            plan = plan_adapter(folder.published, folder.config, self.bank.shapes)
            data = folder.published.read_bytes()
            self.weights.append(load_weights(data, plan, self.bank.linears, self.bank.dtype))
            self.memory_bytes.append(AdapterLimits().bytes_of(plan, self.bank.shapes))

    def logits(self, *rows: SlotWeights) -> mx.array:
        self.bank.route.set(list(rows), self.bank)
        tokens = mx.array([[5, 900, 77]] * len(rows))
        return self.base.model(tokens, cache=make_prompt_cache(self.base.model))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, make_adapter: Any) -> list[Path]:
    root = tmp_path_factory.mktemp("ranks")
    return [
        make_adapter(root / str(rank), seed=rank, rank=rank, kind=KINDS.get(slot, "lora"))
        for slot, rank in enumerate(RANKS)
    ]


@pytest.fixture
def bench(tiny_base: Path, folders: list[Path]) -> Bench:
    return Bench(tiny_base, folders)


def test_a_batch_of_all_ranks_is_what_each_row_is_alone(bench: Bench) -> None:
    for slot, weights in enumerate(bench.weights):
        bench.bank.write(slot, weights)
    rows: list[SlotWeights] = [
        ((3, 1.0),),
        (),
        ((0, 1.0),),
        ((4, 0.5), (0, 0.25), (2, -1.0)),
        ((1, 1.0),),
        ((0, 0.0),),
        ((2, 0.3), (4, 1.0)),
        ((4, 1.0),),
    ]
    mixed = bench.logits(*rows)
    for number, row in enumerate(rows):
        assert mx.allclose(mixed[number], bench.logits(row)[0], rtol=1e-3, atol=1e-3), row
    assert mx.array_equal(mixed[1], bench.logits(*[()] * len(rows))[1])
    assert not mx.allclose(mixed[0], mixed[1], atol=1e-2)


def test_an_adapter_takes_the_memory_of_its_own_rank_whatever_its_neighbours(bench: Bench) -> None:
    bank = bench.bank
    for slot in (0, 4, 2):
        before = bank.num_bytes
        bank.write(slot, bench.weights[slot])
        assert bank.num_bytes - before == bench.memory_bytes[slot]
    bank.clear(4)
    assert bank.num_bytes == bench.memory_bytes[0] + bench.memory_bytes[2]


def test_writing_an_adapter_moves_no_stack_of_another_rank_and_reuses_what_is_free(
    bench: Bench,
) -> None:
    bank = bench.bank
    for slot in (0, 2, 4):
        bank.write(slot, bench.weights[slot])
    stacks = bank.routed[0]._store.stacks  # pyright: ignore[reportPrivateUsage]
    large = stacks[64].a
    bank.write(1, bench.weights[0])
    assert stacks[64].a is large
    before = bank.num_bytes
    for _ in range(5):
        bank.write(1, bench.weights[0])
    assert bank.num_bytes == before


def test_what_leaves_while_others_stay_is_forgotten(bench: Bench) -> None:
    bank, base_alone = bench.bank, bench.logits(())
    for slot in (1, 3):
        bank.write(slot, bench.weights[slot])
    stays = bench.logits(((3, 1.0),))
    bank.clear(1)
    assert mx.allclose(bench.logits(((3, 1.0),)), stays, atol=1e-4)
    assert mx.array_equal(bench.logits(())[0], base_alone[0])
    bank.write(1, bench.weights[0])  # no DoRA any more
    plain = bench.logits(((1, 1.0),))
    bank.write(0, bench.weights[0])
    assert mx.allclose(plain, bench.logits(((0, 1.0),)), atol=1e-4)


def test_an_adapter_of_some_modules_takes_nothing_in_the_others(
    tiny_base: Path, make_adapter: Any, tmp_path: Path
) -> None:
    last = make_adapter(tmp_path / "last", seed=1, keys=("self_attn.q_proj",), num_layers=1)
    every = make_adapter(tmp_path / "every", seed=2, rank=16)
    bench = Bench(tiny_base, [last, every])
    for slot, weights in enumerate(bench.weights):
        bench.bank.write(slot, weights)
    assert bench.bank.num_bytes == sum(bench.memory_bytes)
    rows: list[SlotWeights] = [((0, 1.0),), ((1, 1.0),), ()]
    mixed = bench.logits(*rows)
    for number, row in enumerate(rows):
        assert mx.allclose(mixed[number], bench.logits(row)[0], rtol=1e-3, atol=1e-3)
