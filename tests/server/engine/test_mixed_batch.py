"""One batch, many adapters: every row must be what mlx-lm writes for it alone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import make_prompt_cache
from safetensors.numpy import load_file, save_file

from tests.server.engine.engine_requests import sequence
from tests.server.engine.peft_files import as_mlx, cut_rank, write_peft
from verse.adapter_files import plan_adapter
from verse.adapter_folder import read_adapter_folder
from verse.base_model import BaseModel, load_base_model
from verse_server.engine.adapters.lora import LoraBank, SlotWeights
from verse_server.engine.adapters.weights import AdapterWeights, ModuleUpdate, load_weights
from verse_server.engine.batch import Batch
from verse_server.engine.kv_cache import BatchSlots, PrefixCache
from verse_server.engine.sequence import Sequence as EngineSequence
from verse_server.engine.types import SamplingParams

GREEDY = SamplingParams(temperature=0)
NUM_TOKENS = 20
PROMPTS = [[1, 40 + i, 900 + 7 * i, 77, 3000 + i][: 3 + i % 3] for i in range(12)]


@dataclass
class Workbench:
    base: BaseModel
    bank: LoraBank
    batch: Batch
    folders: dict[str, Path]
    """As the server reads them."""
    references: dict[str, Path]
    """As mlx-lm reads them."""
    slots: dict[str, int]

    def row(self, name: str | None, prompt: Sequence[int]) -> EngineSequence:
        slots: SlotWeights = () if name is None else ((self.slots[name], 1.0),)
        return sequence(prompt, slots, GREEDY)


def read(folder: Path, bank: LoraBank) -> AdapterWeights:
    adapter = read_adapter_folder(folder)
    assert adapter.published is not None
    plan = plan_adapter(adapter.published, adapter.config, bank.shapes)
    return load_weights(adapter.published.read_bytes(), plan, bank.linears, bank.dtype)


@pytest.fixture(scope="module")
def workbench(
    tiny_base: Path, make_adapter: Any, tmp_path_factory: pytest.TempPathFactory
) -> Workbench:
    root = tmp_path_factory.mktemp("adapters")
    references = {
        "lora": make_adapter(root / "lora", seed=1),
        "attention-only": make_adapter(
            root / "attention-only", seed=2, rank=4, scale=5.0, keys=["self_attn.q_proj"]
        ),
        "last-layer": make_adapter(root / "last-layer", seed=3, rank=16, num_layers=1),
        "dora": make_adapter(root / "dora", seed=4, kind="dora", rank=4),
    }
    folders = dict(references)
    made = make_adapter(root / "for-peft", seed=5)
    write_peft(made, root / "peft", lora_alpha=24)
    write_peft(
        made,
        root / "peft-patterns",
        lora_alpha=6,
        use_rslora=True,
        rank_pattern={"mlp.down_proj": 3},
        alpha_pattern={"self_attn.v_proj": 11, "mlp.down_proj": 4},
    )
    cut_rank(root / "peft-patterns", r"mlp\.down_proj", 3)
    write_peft(
        make_adapter(root / "for-peft-dora", seed=6, kind="dora"), root / "peft-dora", lora_alpha=16
    )
    for name in ("peft", "peft-patterns", "peft-dora"):
        folders[name] = root / name
        references[name] = as_mlx(root / name, root / f"{name}-as-mlx", max_rank=8)
    base = load_base_model(str(tiny_base))
    bank = LoraBank(base.model, base.dtype)
    slots = {name: slot for slot, name in enumerate(folders)}
    for name, slot in slots.items():
        bank.write(slot, read(folders[name], bank))
    return Workbench(base, bank, Batch(base, bank, 32, PrefixCache(0)), folders, references, slots)


def run(batch: Batch, rows: list[EngineSequence], num_tokens: int = NUM_TOKENS) -> list[list[int]]:
    for row in rows:
        batch.add([row], num_tokens)
    tokens: dict[EngineSequence, list[int]] = {row: [] for row in rows}
    running = set(rows)
    while running:
        for drawn in batch.step():
            tokens[drawn.sequence].append(drawn.token)
            if drawn.finish_reason:
                running.discard(drawn.sequence)
    return [tokens[row] for row in rows]


def test_every_row_of_a_mixed_batch_is_what_mlx_lm_writes_alone(
    workbench: Workbench, greedy_alone: Any
) -> None:
    names = [None, *workbench.slots, None, "dora", "peft"]
    rows = [workbench.row(name, PROMPTS[i]) for i, name in enumerate(names)]
    answers = run(workbench.batch, rows)
    for name, row, answer in zip(names, rows, answers, strict=True):
        reference = None if name is None else workbench.references[name]
        assert answer == greedy_alone(reference, row.prompt, NUM_TOKENS), name


def test_rows_that_come_and_go_keep_their_adapter_and_their_answer(
    workbench: Workbench, greedy_alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who leaves gives its slot to another; nobody may notice."""
    orders: list[bool] = []
    leave = BatchSlots.leave

    def spy(slots: BatchSlots, keep: Sequence[int]) -> list[int]:
        before = leave(slots, keep)
        orders.append(slots.is_in_order)
        return before

    monkeypatch.setattr(BatchSlots, "leave", spy)
    batch = Batch(workbench.base, workbench.bank, 6, PrefixCache(0))
    names = [None, *workbench.slots, "lora", None]
    rows = [workbench.row(name, PROMPTS[i]) for i, name in enumerate(names)]
    lengths = {row: 3 + 5 * index % 17 for index, row in enumerate(rows)}
    waiting, running = list(rows), set[EngineSequence]()
    answers: dict[EngineSequence, list[int]] = {row: [] for row in rows}
    while waiting or running:
        while waiting and len(running) < 6:
            row = waiting.pop(0)
            batch.add([row], lengths[row])
            running.add(row)
        for drawn in batch.step():
            answers[drawn.sequence].append(drawn.token)
            if drawn.finish_reason:
                running.discard(drawn.sequence)
    assert not all(orders)
    for name, row in zip(names, rows, strict=True):
        reference = None if name is None else workbench.references[name]
        assert answers[row] == greedy_alone(reference, row.prompt, lengths[row]), name


def test_the_adapters_do_change_what_is_written(workbench: Workbench) -> None:
    names = [None, *workbench.slots]
    answers = run(workbench.batch, [workbench.row(name, PROMPTS[0]) for name in names])
    assert len({tuple(answer) for answer in answers}) == len(names)


@pytest.mark.parametrize("name", ["lora", "dora", "peft", "last-layer"])
def test_a_batch_of_one_adapter_is_what_mlx_lm_writes_alone(
    workbench: Workbench, greedy_alone: Any, name: str
) -> None:
    rows = [workbench.row(name, prompt) for prompt in PROMPTS[:3]]
    for row, answer in zip(rows, run(workbench.batch, rows), strict=True):
        assert answer == greedy_alone(workbench.references[name], row.prompt, NUM_TOKENS)


def test_base_rows_of_a_mixed_batch_are_bit_identical_to_no_lora(
    workbench: Workbench, tiny_base: Path
) -> None:
    plain = load_base_model(str(tiny_base)).model
    tokens = mx.array([[5, 900, 77], [6, 901, 78], [7, 902, 79], [8, 903, 80]])
    routes: list[SlotWeights] = [
        (),
        ((workbench.slots["dora"], 1.0),),
        (),
        ((workbench.slots["lora"], 1.0),),
    ]
    workbench.bank.route.set(routes, workbench.bank)
    mixed = workbench.base.model(tokens, cache=make_prompt_cache(plain))
    expected = plain(tokens, cache=make_prompt_cache(plain))
    assert mx.array_equal(mixed[0], expected[0])
    assert mx.array_equal(mixed[2], expected[2])
    assert not mx.allclose(mixed[1], expected[1], atol=1e-3)
    assert not mx.allclose(mixed[3], expected[3], atol=1e-3)


steps = st.lists(
    st.tuples(st.sampled_from(["join", "step", "leave"]), st.integers(0, 10_000)),
    min_size=5,
    max_size=40,
)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(actions=steps)
def test_joining_and_leaving_in_any_order_never_moves_an_adapter_to_another_row(
    workbench: Workbench, greedy_alone: Any, actions: list[tuple[str, int]]
) -> None:
    names = [None, *workbench.slots]
    batch = Batch(workbench.base, workbench.bank, 8, PrefixCache(0))
    expected: dict[EngineSequence, list[int]] = {}
    written: dict[EngineSequence, list[int]] = {}
    running: list[EngineSequence] = []

    def step() -> None:
        for drawn in batch.step():
            written[drawn.sequence].append(drawn.token)
            if drawn.finish_reason:
                running.remove(drawn.sequence)

    for action, number in actions:
        if action == "join" and len(running) < 8:
            name, prompt = names[number % len(names)], PROMPTS[number % len(PROMPTS)]
            row = workbench.row(name, prompt)
            batch.add([row], 3 + number % 8)
            reference = None if name is None else workbench.references[name]
            expected[row] = greedy_alone(reference, prompt, 3 + number % 8)
            written[row] = []
            running.append(row)
        elif action == "leave" and running:
            batch.remove([running.pop(number % len(running))])
        else:
            step()
    while running:
        step()
    for row, tokens in written.items():
        assert tokens == expected[row][: len(tokens)]


def test_a_blend_equals_an_adapter_blended_by_hand(workbench: Workbench, tmp_path: Path) -> None:
    """0.7 A1 B1 + 0.3 A2 B2 is one adapter of twice the rank."""
    first, second = (workbench.folders[name] for name in ("lora", "peft"))
    blended = tmp_path / "blended"
    blended.mkdir()
    one = load_file(first / "adapters.safetensors")
    two = load_file(as_mlx(second, tmp_path / "second", max_rank=8) / "adapters.safetensors")
    joined: dict[str, Any] = {}
    for name, array in one.items():
        if name.endswith("lora_a"):
            joined[name] = np.concatenate([array, two[name]], axis=1)
        else:
            joined[name] = np.concatenate([0.7 * 2.0 * array, 0.3 * two[name]], axis=0)
    save_file(joined, blended / "adapters.safetensors")
    parameters = {"rank": 16, "scale": 1.0, "dropout": 0.0}
    (blended / "adapter_config.json").write_text(json.dumps({"lora_parameters": parameters}))

    bank, slots = workbench.bank, workbench.slots
    spare = len(slots)
    bank.write(spare, read(blended, bank))
    tokens = mx.array([[5, 900, 77]] * 2)
    row: SlotWeights = ((slots["lora"], 0.7), (slots["peft"], 0.3))
    bank.route.set([row, ((spare, 1.0),)], bank)
    logits = workbench.base.model(tokens, cache=make_prompt_cache(workbench.base.model))
    bank.clear(spare)
    assert mx.allclose(logits[0], logits[1], rtol=1e-4, atol=1e-3)


def test_strength_zero_is_the_base_and_strength_one_the_adapter(workbench: Workbench) -> None:
    slot = workbench.slots["lora"]
    tokens = mx.array([[5, 900, 77]] * 4)
    workbench.bank.route.set([((slot, 0.0),), (), ((slot, 1.0),), ((slot, 0.5),)], workbench.bank)
    logits = workbench.base.model(tokens, cache=make_prompt_cache(workbench.base.model))
    assert mx.array_equal(logits[0], logits[1])
    assert not mx.allclose(logits[2], logits[1], atol=1e-2)
    assert not mx.allclose(logits[3], logits[2], atol=1e-2)


def test_a_smaller_rank_after_a_larger_one_leaves_nothing_behind(
    workbench: Workbench, greedy_alone: Any, tiny_base: Path
) -> None:
    base = load_base_model(str(tiny_base))
    bank = LoraBank(base.model, base.dtype)
    batch = Batch(base, bank, 4, PrefixCache(0))
    for name in ("last-layer", "attention-only", "dora", "lora"):
        bank.write(0, read(workbench.folders[name], bank))
        (answer,) = run(batch, [sequence(PROMPTS[0], ((0, 1.0),), GREEDY)])
        assert answer == greedy_alone(workbench.references[name], PROMPTS[0], NUM_TOKENS), name
    ranks = {rank for routed in bank.routed for rank in routed.rank_classes}
    assert ranks == {8}


def test_delta_norm_is_the_norm_of_the_update(workbench: Workbench) -> None:
    for name in ("lora", "dora"):
        weights = load_file(workbench.references[name] / "adapters.safetensors")
        scale, total = 2.0, 0.0
        for path in {key.rsplit(".", 1)[0] for key in weights}:
            linear = np.array(workbench.bank.linears[path]["weight"])
            delta = scale * (weights[f"{path}.lora_a"] @ weights[f"{path}.lora_b"]).T
            if f"{path}.m" in weights:
                adapted = linear + delta
                gain = weights[f"{path}.m"] / np.linalg.norm(adapted, axis=1)
                delta = gain[:, None] * adapted - linear
            total += float((delta**2).sum())
        loaded = read(workbench.folders[name], workbench.bank)
        assert loaded.delta_norm == pytest.approx(total**0.5, rel=1e-4)


def test_what_overflows_in_an_idle_slot_reaches_no_row(tiny_base: Path) -> None:
    base = load_base_model(str(tiny_base))
    bank = LoraBank(base.model, base.dtype)
    shape = bank.shapes["model.layers.0.self_attn.q_proj"]
    for slot, size in enumerate((0.1, 1e38, 0.1)):
        update = ModuleUpdate(
            mx.full((2, shape.in_dims), size), mx.full((2, shape.out_dims), size), None, None
        )
        modules = {"model.layers.0.self_attn.q_proj": update}
        bank.write(slot, AdapterWeights(modules, 2, 1.0))
    tokens = mx.array([[5, 900, 77]] * 3)

    def logits(*rows: SlotWeights) -> mx.array:
        bank.route.set(rows, bank)
        return base.model(tokens[: len(rows)], cache=make_prompt_cache(base.model))

    mixed = logits((), ((0, 1.0),), ((2, 1.0),))
    assert mx.allclose(mixed[0], logits(())[0], atol=1e-4)
    assert mx.allclose(mixed[1], logits(((0, 1.0),))[0], atol=1e-4)
    assert mx.allclose(mixed[2], logits(((2, 1.0),))[0], atol=1e-4)
    assert not mx.all(mx.isfinite(logits(((1, 1.0),))))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_adapters_leave_the_activations_in_the_type_of_the_base(
    workbench: Workbench, tiny_base: Path, dtype: mx.Dtype
) -> None:
    base = load_base_model(str(tiny_base))
    base.model.set_dtype(dtype)
    bank = LoraBank(base.model, dtype)
    for slot, name in enumerate(("lora", "dora")):
        bank.write(slot, read(workbench.folders[name], bank))
    tokens = mx.array([[5, 900, 77]] * 3)
    for rows in ([()] * 3, [((0, 1.0),)] * 3, [((1, 1.0),), (), ((0, 0.5),)]):
        bank.route.set(rows, bank)
        logits = base.model(tokens, cache=make_prompt_cache(base.model))
        assert logits.dtype == dtype
        assert mx.all(mx.isfinite(logits))
