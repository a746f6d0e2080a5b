"""Adapters on a base whose weights are packed: their updates are computed on the host."""

from types import SimpleNamespace
from typing import Any, cast

import mlx.core as mx
import numpy as np

from verse.base_model import load_base_model
from verse.cpu_weights.packing import CpuWeights
from verse_server.engine.adapters.lora import LoraBank
from verse_server.engine.adapters.weights import ModuleUpdate

PLAIN, HALF, DORA = ((0, 1.0),), ((0, 0.5),), ((1, 1.0),)
BATCHES: list[list[Any]] = [[(), PLAIN, HALF, DORA], [PLAIN] * 4, [()] * 4]


def last_logits(kind: CpuWeights) -> list[Any]:
    base = load_base_model("models/verse-tiny", cpu_weights=kind)
    bank = LoraBank(base.model, base.dtype)
    mx.random.seed(5)
    for slot in (0, 1):
        modules: dict[str, ModuleUpdate] = {}
        for path, shape in sorted(bank.shapes.items()):
            a, b = (mx.random.normal((4, n)) * 0.05 for n in (shape.in_dims, shape.out_dims))
            gain = mx.random.uniform(0.8, 1.2, (shape.out_dims,)) if slot else None
            modules[path] = ModuleUpdate(a, b, gain, None)
        bank.write(slot, cast(Any, SimpleNamespace(modules=modules)))
    found: list[Any] = []
    for rows in BATCHES:
        bank.route.set(rows, bank)
        found.append(np.array(cast(Any, base.model)(mx.array([[5, 6, 7, 8]] * 4))[:, -1]))
    return found


def test_each_row_has_its_own_adapter_and_the_same_bits_in_any_company() -> None:
    expected, got = last_logits("float32"), last_logits("bf16")
    for ours, theirs in zip(got, expected, strict=True):
        assert np.abs(ours - theirs).max() < 0.03 * np.abs(theirs).max()
    assert np.abs(got[0][0] - got[0][1]).max() > 0.1
    assert np.array_equal(got[0][1], got[1][0])
    assert np.array_equal(got[0][0], got[2][0])


def test_the_size_of_a_base_does_not_depend_on_how_it_is_packed() -> None:
    kinds: tuple[CpuWeights, ...] = ("float32", "bf16", "int8")
    bases = [load_base_model("models/verse-tiny", cpu_weights=kind) for kind in kinds]
    assert len({base.num_parameters for base in bases}) == 1
    assert bases[0].bytes > bases[1].bytes > bases[2].bytes > bases[0].num_parameters
