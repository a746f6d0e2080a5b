"""What adapters leave alone is computed once for all of them: only their own layers come anew."""

from collections.abc import Sequence as SequenceOf
from copy import deepcopy
from types import SimpleNamespace
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest

from tests.server.engine.engine_requests import sequence
from verse.base_model import BaseModel, load_base_model
from verse.cpu_weights.packed_mlp import HostSwiGLU
from verse_server.engine.adapters.lora import LoraBank
from verse_server.engine.adapters.weights import ModuleUpdate
from verse_server.engine.batch import Batch
from verse_server.engine.kv_cache import PrefixCache
from verse_server.engine.layers_below import HiddenStates, LayersBelow
from verse_server.engine.pacing import Pacing
from verse_server.engine.sampling.sampler import StepLogits
from verse_server.engine.sequence import Sequence
from verse_server.engine.types import SamplingParams

NUM_LAYERS = 6
ADAPTED = (4, 4, 4, 3, 0)
"""The lowest layer of each adapter; the last one changes all."""
SYSTEM = (*range(40, 80),)
THEMES = ((7, 8, 9), (1, 2, 3), (4, 5, 6, 7))


@pytest.fixture(scope="module")
def packed() -> BaseModel:
    return load_base_model("models/verse-tiny", cpu_weights="bf16")


@pytest.fixture(scope="module")
def bank(packed: BaseModel) -> LoraBank:
    bank = LoraBank(packed.model, packed.dtype)
    mx.random.seed(5)
    for slot, lowest in enumerate(ADAPTED):
        modules: dict[str, ModuleUpdate] = {}
        for path, shape in sorted(bank.shapes.items()):
            if int(path.split(".")[2]) >= lowest:
                a, b = (mx.random.normal((4, n)) * 0.1 for n in (shape.in_dims, shape.out_dims))
                modules[path] = ModuleUpdate(a, b, None, None)
        bank.write(slot, cast(Any, SimpleNamespace(modules=modules)))
    return bank


class Bounded(Pacing):
    """So many tokens of prompts between two steps."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self._tokens = tokens

    @property
    def prefill_tokens(self) -> int:
        return self._tokens


class Noting:
    """A batch, and the logits of its rows' first tokens."""

    def __init__(
        self, packed: BaseModel, bank: LoraBank, cache_bytes: int = 1 << 26, tokens: int = 2048
    ) -> None:
        self.batch = Batch(packed, bank, 32, PrefixCache(cache_bytes), pacing=Bounded(tokens))
        self.logits: dict[Sequence, Any] = {}
        routed = self.batch._routed  # pyright: ignore[reportPrivateUsage]
        draw = routed.draw

        def noted(logits: StepLogits, inputs: mx.array, rows: list[Sequence]) -> mx.array:
            for row, of_row in zip(rows, np.array(logits), strict=True):
                self.logits.setdefault(row, of_row)
            return draw(logits, inputs, rows)

        routed.draw = noted

    def add(self, slot: int | None, prompt: SequenceOf[int], tokens: int = 3) -> Sequence:
        slots = () if slot is None else ((slot, 1.0),)
        row = sequence(prompt, slots, SamplingParams(temperature=0))
        row.version = tuple((f"digest {number}", 1.0) for number, _ in slots)
        self.batch.add([row], tokens, ignore_eos=True)
        return row

    def first_logits(self, *rows: Sequence) -> list[Any]:
        while not self.batch.is_empty:
            self.batch.step()
        return [self.logits[row] for row in rows]


@pytest.fixture
def widths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each row, in every MLP that is computed."""
    seen: list[int] = []
    call = HostSwiGLU.__call__

    def noted(mlp: HostSwiGLU, x: Any) -> Any:
        seen.append(x.shape[1])
        return call(mlp, x)

    monkeypatch.setattr(HostSwiGLU, "__call__", noted)
    return seen


def assert_alike(got: list[Any], expected: list[Any]) -> None:
    """But for what bfloat16 makes of a last bit."""
    for ours, theirs in zip(got, expected, strict=True):
        assert np.abs(ours - theirs).max() < 0.01 * np.abs(theirs).max()
        assert ours.argmax() == theirs.argmax()


def alone(packed: BaseModel, bank: LoraBank, slot: int | None, prompt: SequenceOf[int]) -> Any:
    noting = Noting(packed, bank, cache_bytes=0)
    return noting.first_logits(noting.add(slot, prompt))[0]


def test_a_known_beginning_goes_through_the_layers_of_a_new_adapter_alone(
    packed: BaseModel, bank: LoraBank, widths: list[int]
) -> None:
    noting = Noting(packed, bank)
    noting.first_logits(noting.add(0, [*SYSTEM, *THEMES[0]], tokens=1))
    widths.clear()
    row = noting.add(1, [*SYSTEM, *THEMES[1]], tokens=1)
    got = noting.first_logits(row)
    assert widths[:NUM_LAYERS] == [3, 3, 3, 3, 43, 1]
    assert row.num_cached == 0
    assert_alike(got, [alone(packed, bank, 1, row.prompt)])


def test_adapters_that_come_together_wait_for_the_first_of_them_once(
    packed: BaseModel, bank: LoraBank, widths: list[int]
) -> None:
    noting = Noting(packed, bank)
    rows = [noting.add(slot, [*SYSTEM, *theme]) for slot, theme in enumerate(THEMES)]
    assert {drawn.sequence for drawn in noting.batch.step()} == {*rows}
    assert widths[:3] == [43, 43, 43]
    assert sum(widths[layer] for layer in range(0, len(widths), NUM_LAYERS)) < 43 + 2 * 5
    expected = [alone(packed, bank, slot, row.prompt) for slot, row in enumerate(rows)]
    assert_alike(noting.first_logits(*rows), expected)


@pytest.mark.parametrize("tokens", [8, 13, 24])
def test_what_is_left_of_a_prompt_comes_in_bit_by_bit_while_rows_run(
    packed: BaseModel, bank: LoraBank, widths: list[int], tokens: int
) -> None:
    noting = Noting(packed, bank, tokens=tokens)
    noting.add(None, [5, 6, 7], tokens=90)
    noting.batch.step()
    rows = [noting.add(slot, [*SYSTEM, *theme]) for slot, theme in enumerate(THEMES)]
    rows.append(noting.add(None, [*SYSTEM, 3, 3]))
    got = noting.first_logits(*rows)
    assert max(widths) <= 3 * tokens
    expected = [alone(packed, bank, slot, rows[slot].prompt) for slot in range(len(THEMES))]
    assert_alike(got, [*expected, alone(packed, bank, None, rows[-1].prompt)])


def written_in_turn(
    noting: Noting, widths: list[int], prompts: list[list[int]]
) -> tuple[Sequence, Sequence]:
    """Rows of two adapters beside a running one; widths are of forwards after the first."""
    noting.add(None, [5, 6, 7], tokens=90)
    noting.batch.step()
    first = noting.add(0, prompts[0], tokens=1)
    while first not in noting.logits:
        noting.batch.step()
    widths.clear()
    return first, noting.add(1, prompts[1], tokens=1)


def test_long_prompts_in_pieces_leave_as_much(
    packed: BaseModel, bank: LoraBank, widths: list[int]
) -> None:
    noting = Noting(packed, bank, tokens=16)
    prompts = [[*range(100, 220)], [*range(100, 219), 9]]
    rows = written_in_turn(noting, widths, prompts)
    got = noting.first_logits(*rows)
    assert widths.count(48) == 2  # all but two of the layers leave these pieces out
    assert_alike(got, [alone(packed, bank, row.adapter_slots[0][0], row.prompt) for row in rows])


def test_a_prompt_whose_last_token_needs_no_forward_of_its_own_leaves_as_much(
    packed: BaseModel, bank: LoraBank, widths: list[int]
) -> None:
    noting = Noting(packed, bank, tokens=8)
    _, second = written_in_turn(noting, widths, [[*SYSTEM, 7], [*SYSTEM, 8]])
    noting.first_logits(second)
    assert 24 in widths
    assert 8 not in widths


def test_adapters_of_other_layers_share_nothing_and_the_base_keeps_all_for_itself(
    packed: BaseModel, bank: LoraBank, widths: list[int]
) -> None:
    noting = Noting(packed, bank)
    for slot in (0, None):
        noting.first_logits(noting.add(slot, [*SYSTEM, *THEMES[0]], tokens=1))
    for slot in (3, 4):
        widths.clear()
        row = noting.add(slot, [*SYSTEM, *THEMES[1]], tokens=1)
        got = noting.first_logits(row)
        assert widths[: NUM_LAYERS - 1] == [43] * 5
        assert_alike(got, [alone(packed, bank, slot, row.prompt)])


def test_an_adapter_that_knows_the_beginning_joins_one_that_does_not_in_neither_way(
    packed: BaseModel, bank: LoraBank
) -> None:
    noting = Noting(packed, bank)
    noting.first_logits(*(noting.add(slot, [*SYSTEM, 9], tokens=1) for slot in (0, 4, None)))
    rows = [noting.add(slot, [*SYSTEM, 3, slot or 0]) for slot in (0, 1, 2, 3, 4, None)]
    got = noting.first_logits(*rows)
    slots = (0, 1, 2, 3, 4, None)
    assert_alike(got, [alone(packed, bank, s, r.prompt) for s, r in zip(slots, rows, strict=True)])


def test_the_lowest_layer_of_a_blend_counts(bank: LoraBank) -> None:
    assert [bank.lowest_layer({slot}) for slot in range(5)] == list(ADAPTED)
    assert bank.lowest_layer({0, 3}) == 3
    assert bank.lowest_layer(set()) == 0


def test_states_are_taken_back_like_keys_and_values_and_a_copy_is_not_touched() -> None:
    states = HiddenStates(np.arange(12, dtype=np.float32).reshape(4, 3))
    copy = deepcopy(states)
    assert (copy.trim(1), len(copy.states), len(states.states)) == (1, 3, 4)
    assert states.nbytes == 48


def test_tokens_through_the_upper_layers_cost_their_share() -> None:
    below = LayersBelow(16, 24)
    assert [below.cost(37, 7), below.cost(37, 37), below.cost(10, 0)] == [17, 37, 4]
    assert [below.num_above(8), below.num_above(0)] == [24, 1]
