"""Rows on a base whose weights are packed: each has the same bits, whoever is beside it.

Adapters' updates are computed on the host, row by row. What changes last bits is in what groups the
sums over a row's columns are added up: beside a longer row it is padded, under load its prompt is
cut into pieces, and a known beginning is such a piece. Its logits then differ by what bfloat16
makes of a last bit.
"""

import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest

from tests.server.engine.engine_requests import sequence
from verse.base_model import BaseModel, load_base_model
from verse.cpu_weights.packing import CpuWeights
from verse_server.engine.adapters.lora import LoraBank
from verse_server.engine.adapters.weights import ModuleUpdate
from verse_server.engine.batch import Batch
from verse_server.engine.forward import RoutedModel
from verse_server.engine.kv_cache import PrefixCache
from verse_server.engine.pacing import Pacing
from verse_server.engine.sampling.sampler import StepLogits
from verse_server.engine.sequence import Sequence
from verse_server.engine.types import SamplingParams

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


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_each_row_has_its_own_adapter_and_the_same_bits_in_any_company(kind: CpuWeights) -> None:
    expected, got = last_logits("float32"), last_logits(kind)
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


PROMPT = [5, 900, 77, *range(31, 55), 8, 9]


@pytest.fixture(scope="module")
def packed() -> BaseModel:
    return load_base_model("models/verse-tiny", cpu_weights="bf16")


class _Unbound(Pacing):
    """Prompts are never cut, however long the last steps took."""

    @property
    def prefill_tokens(self) -> int:
        return 2048


class Noting:
    """A batch, and the logits that each row's tokens were drawn from."""

    def __init__(self, base: BaseModel) -> None:
        bank = LoraBank(base.model, base.dtype)
        self.batch = Batch(base, bank, 32, PrefixCache(1 << 24), pacing=_Unbound())
        self.logits: dict[Sequence, list[Any]] = {}
        routed = self.batch._routed  # pyright: ignore[reportPrivateUsage]
        draw = routed.draw

        def noted(logits: StepLogits, inputs: mx.array, rows: list[Sequence]) -> mx.array:
            for row, of_row in zip(rows, np.array(logits), strict=True):
                self.logits.setdefault(row, []).append(of_row)
            return draw(logits, inputs, rows)

        routed.draw = noted

    def add(self, prompt: Iterable[int], num_steps: int = 0, tokens: int = 12) -> Sequence:
        """Then so many steps."""
        row = sequence(prompt, (), SamplingParams(temperature=0))
        self.batch.add([row], tokens)
        for _ in range(num_steps):
            self.batch.step()
        return row

    def written(self, row: Sequence) -> Any:
        """(tokens, vocab), when all are done."""
        while not self.batch.is_empty:
            self.batch.step()
        return np.array(self.logits[row])


def alone(packed: BaseModel) -> Any:
    noting = Noting(packed)
    return noting.written(noting.add(PROMPT))


def test_a_row_has_the_same_bits_alone_and_beside_rows_it_came_with(packed: BaseModel) -> None:
    noting = Noting(packed)
    row = noting.add(PROMPT)
    for token in range(20, 27):
        noting.add([*PROMPT[:-1], token])
    noting.add([*PROMPT[:-7], *range(7)])
    assert np.array_equal(noting.written(row), alone(packed))


def test_a_row_that_joins_others_has_the_bits_it_has_alone(packed: BaseModel) -> None:
    noting = Noting(packed)
    noting.add([3, 4], 5, tokens=20)
    row = noting.add(PROMPT, 3)
    noting.add([*range(100, 120)])  # and is joined in its turn
    assert np.array_equal(noting.written(row), alone(packed))


@pytest.mark.parametrize("is_cut", [False, True])
def test_what_a_prompt_takes_is_noted_and_the_step_behind_it_is_no_part_of_it(
    packed: BaseModel, monkeypatch: pytest.MonkeyPatch, *, is_cut: bool
) -> None:
    noting, seconds = Noting(packed), list[float]()
    noting.add([3, 4], 5, tokens=20)
    forward = RoutedModel.forward

    def slow(model: RoutedModel, tokens: mx.array, *arguments: Any) -> StepLogits:
        time.sleep(0.05 if tokens.shape[1] > 1 else 0.5)
        return forward(model, tokens, *arguments)

    def noted(_pacing: Pacing, _tokens: int, took: float) -> None:
        seconds.append(took)

    monkeypatch.setattr(RoutedModel, "forward", slow)
    monkeypatch.setattr(Pacing, "note_prefill", noted)
    if is_cut:
        monkeypatch.setattr(_Unbound, "prefill_tokens", 8)
    noting.add(PROMPT, 1)
    assert len(seconds) == 1
    assert 0.05 <= seconds[0] < 0.5


def test_padding_and_a_known_beginning_change_last_bits_and_no_token(packed: BaseModel) -> None:
    noting = Noting(packed)
    noting.written(noting.add([*PROMPT[:-3], 60, 61, 62]))
    noting.add(range(100, 190), 5)
    row = noting.add(PROMPT)
    got, expected = noting.written(row), alone(packed)
    assert np.abs(got - expected).max() < 0.01 * np.abs(expected).max()
    assert np.array_equal(got.argmax(axis=-1), expected.argmax(axis=-1))
    assert row.num_cached > 20


def test_a_step_tells_what_it_has_drawn_and_no_row_is_computed_after_its_end(
    packed: BaseModel,
) -> None:
    noting = Noting(packed)
    row, beside = noting.add(PROMPT, tokens=5), noting.add(PROMPT[1:], tokens=7)
    steps: list[list[Sequence]] = []
    while not noting.batch.is_empty:
        steps.append([drawn.sequence for drawn in noting.batch.step()])
    assert [len(noting.logits[r]) for r in (row, beside)] == [5, 7]
    assert sum(step.count(row) for step in steps) == 5
    assert [step.count(beside) for step in steps[-2:]] == [1, 1]
    assert all(steps)


def test_what_was_told_goes_out_before_the_next_forward_and_not_after_it(packed: BaseModel) -> None:
    events: list[str] = []
    bank = LoraBank(packed.model, packed.dtype)
    batch = Batch(packed, bank, 8, PrefixCache(0), on_wait=lambda: events.append("sent"))
    routed: Any = batch._routed  # pyright: ignore[reportPrivateUsage]
    model = routed._model

    def noted(*args: Any, **options: Any) -> Any:
        events.append("computed")
        return model(*args, **options)

    routed._model = noted
    batch.add([sequence(PROMPT, (), SamplingParams(temperature=0))], 4)
    batch.step()
    events.clear()
    batch.step()
    assert events == ["sent", "computed"]


class _Counting:
    """Stands for a grammar's matcher that allows all."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def take(self, token: int) -> None:
        self.taken.append(token)

    def allowed(self) -> Any:
        return np.ones(8192, np.bool_)


def test_a_grammar_has_taken_each_token_when_it_is_told(packed: BaseModel) -> None:
    batch = Batch(packed, LoraBank(packed.model, packed.dtype), 8, PrefixCache(0))
    matcher = _Counting()
    row = sequence(PROMPT, (), SamplingParams(temperature=0), matcher=cast(Any, matcher))
    batch.add([row], 5)
    told: list[int] = []
    while not batch.is_empty:
        told += [drawn.token for drawn in batch.step()]
        assert matcher.taken == told
    assert len(told) == 5
